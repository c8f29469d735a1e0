"""``zeromean run``: options, exit codes, signals, and what can go wrong."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from programs import ZEROMEAN, environment, script, start, zeromean_run
from zeromean.cli.run import main, make_parser, split
from zeromean.errors import ZeromeanError
from zeromean.programs.command import BOOT, resolve
from zeromean.programs.command import environment as with_boot
from zeromean.programs.options import Options
from zeromean.programs.record import OptimizerRecord, Record, Recorder, merge, read_records

pytestmark = pytest.mark.usefixtures("without_compiler")

TRAIN = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(20, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def train(steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 20) + 1).square().sum().backward()
        optimizer.step()
"""


@pytest.fixture
def program(tmp_path: Path):
    """Writes a program that trains, followed by other lines."""

    def write(lines: str, before: str = TRAIN) -> str:
        path = tmp_path / "program.py"
        path.write_text(before + lines)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("words", "own", "command"),
    [
        ("train.py --at 3", "", "train.py --at 3"),
        ("--at update train.py", "--at update", "train.py"),
        ("--at=update -m package.train --at 3", "--at=update", "-m package.train --at 3"),
        ("--skip-refused -- torchrun x.py -- y", "--skip-refused", "torchrun x.py -- y"),
        ("--plain bash run.sh", "--plain", "bash run.sh"),
    ],
)
def test_options_end_at_the_command(words: str, own: str, command: str) -> None:
    assert split(make_parser(), words.split()) == (own.split(), command.split())


def test_scripts_and_modules_run_in_this_python() -> None:
    assert resolve([script("lstm"), "x"]) == [sys.executable, script("lstm"), "x"]
    assert resolve(["-m", "timeit"]) == [sys.executable, "-m", "timeit"]


def test_empty_pythonpath_does_not_add_the_working_folder() -> None:
    assert with_boot(Options("r"), {"PYTHONPATH": ""})["PYTHONPATH"] == str(BOOT)
    assert with_boot(Options("r"), {"PYTHONPATH": "a:b"})["PYTHONPATH"] == f"{BOOT}:a:b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no command to run"),
        (["no-such-command-here"], "there is no command no-such-command-here on PATH"),
        (["missing.py"], "there is no file missing.py"),
        (["-m"], "-m needs the name of a module"),
        (["--at", "forward", "train.py"], "invalid choice: 'forward'"),
        (["--fused", "train.py"], "unrecognized arguments: --fused"),
        (["--record", "/no/such/folder/r.json", "true"], "/r.json cannot be written"),
        (["--record", "/", "true"], "--record / cannot be written"),
        (["--plain", "--at", "update", "true"], "--at has no effect with --plain"),
        (["--skip-refused", "--plain", "true"], "--skip-refused has no effect with --plain"),
    ],
)
def test_bad_command_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert error.startswith("zeromean: ")
    assert error.count("\n") == 1


def test_missing_temporary_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(SystemExit) as ended:
        main(["true"])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert "No such file or directory" in error


def test_file_that_cannot_be_executed(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text("echo hello\n")
    assert "is not executable" in start([*ZEROMEAN, "run", str(path)]).stderr
    path.chmod(0o755)
    done = start([*ZEROMEAN, "run", str(path)])  # without a first line that names the shell
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"bash {path}" in done.stderr


def test_run_needs_torch_alone() -> None:
    blocked = ("typer", "rich", "numpy", "msgspec", "scipy", "jinja2")
    probe = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}));"
        " sys.argv = ['zeromean', 'run', 'true'];"
        " from zeromean.__main__ import main; main()"
    )
    done = start([sys.executable, "-c", probe])
    assert done.returncode == 3
    assert "no Python process imported torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_code_input_and_output_pass_through(program) -> None:
    path = program("train(); print(input()); print('later', file=sys.stderr); sys.exit(7)",
                   before="import sys" + TRAIN)  # fmt: skip
    done = zeromean_run("bash", "-c", f"{sys.executable} {path}", input="some words\n")
    assert (done.code, done.out) == (7, "some words\n")
    assert done.err.startswith("later\nzeromean: SGD at=gradient")
    assert done.only.holds is True


def test_signals_pass_through(program) -> None:
    done = zeromean_run(program("train(); import os; os.kill(os.getpid(), 11)"))
    assert done.code == -signal.SIGSEGV
    assert (done.only.steps, done.record.finished) == (1, False)
    path = program("train()\nprint('ready', flush=True)\nimport time; time.sleep(60)")
    process = subprocess.Popen(
        [*ZEROMEAN, "run", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert b"centered, 1 step" in err


def test_os_exit_and_bytes_and_a_search_for_torch(program) -> None:
    search = "import importlib.util, os\nassert importlib.util.find_spec('torch')\n"
    path = program("train(12); os.write(1, bytes(range(256))); os._exit(0)", search + TRAIN)
    done = zeromean_run(path, encoding="latin-1")
    assert (done.code, done.only.steps, done.only.holds) == (0, 10, True)
    assert not done.record.finished
    assert done.out.encode("latin-1") == bytes(range(256)).replace(b"\r", b"\n")  # in text mode


def test_forked_process_has_its_own_record(program) -> None:
    lines = """
train(2)
import os
child = os.fork()
train(2 if child else 5)
if child:
    os.waitpid(child, 0)
else:
    os._exit(0)
"""
    done = zeromean_run(program(lines))
    assert (done.code, done.record.processes, done.only.steps) == (0, 2, 4)


def test_each_kind_of_optimizer_has_one_entry(program) -> None:
    lines = """
for _ in range(20):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(2)

import zeromean
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
handle = zeromean.centralize(optimizer, model)
train()

import io, warnings; warnings.simplefilter("ignore")
saved = io.BytesIO()
torch.jit.save(torch.jit.script(torch.nn.Linear(20, 3)), saved)
saved.seek(0)
model = torch.jit.load(saved)  # its parameters belong to no Python module
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train()
"""
    done = zeromean_run(program(lines))
    assert done.code == 0
    come_and_go, by_itself, script = done.record.optimizers
    assert (come_and_go.state, come_and_go.optimizers, come_and_go.steps) == ("centered", 20, 2)
    assert (by_itself.state, by_itself.steps) == ("already centralized", 3)
    assert (script.state, script.steps) == ("left alone", 3)
    assert "TorchScript" in script.reason


UNKNOWN = """
class Mine(torch.optim.Optimizer):
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-0.01)
optimizer = Mine(model.parameters(), {"weight_decay": 0.1})
try:
    train()
except Exception:
    pass
print("after")
"""


def test_refused_optimizer_stops_the_program(program) -> None:
    path = program(UNKNOWN)
    done = zeromean_run(path)
    assert (done.code, done.out) == (3, "")
    assert "--weight-decay coupled or --weight-decay decoupled" in done.err
    assert "Traceback" not in done.err
    done = zeromean_run("--skip-refused", path)
    assert (done.code, done.out, done.only.state) == (3, "after\n", "refused")
    done = zeromean_run("--weight-decay", "decoupled", path)
    assert (done.code, done.out, done.only.state) == (0, "after\n", "centered")


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_python_that_skips_the_boot_file_is_reported(option: str) -> None:
    done = zeromean_run("--", sys.executable, option, "-c", "print('hello')")
    assert (done.code, done.out) == (3, "hello\n")
    assert "-I, -E or -S" in done.err


@pytest.fixture
def fake_torch(tmp_path: Path) -> Path:
    """A module named torch, for environments without it."""
    (tmp_path / "fake" / "torch").mkdir(parents=True)
    (tmp_path / "fake" / "torch" / "__init__.py").write_text("import torch.random\n")
    (tmp_path / "fake" / "torch" / "random.py").write_text("")
    return tmp_path / "fake"


def test_environment_without_zeromean_is_reported(tmp_path: Path, fake_torch: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True, with_pip=False)
    python = str(tmp_path / "env" / "bin" / "python")
    variables = with_boot(Options(str(tmp_path)), {"PYTHONPATH": str(fake_torch)})
    done = start([python, "-c", "print('no torch yet'); import torch"], env=variables)
    assert (done.returncode, done.stdout) == (0, "no torch yet\n")
    assert done.stderr.count("\n") == 1
    assert "env/bin/python has no zeromean" in done.stderr
    record = read_records(tmp_path)
    assert record.missing == [python]
    assert "has no zeromean" in record.summary()
    quiet = start([python, "-c", "print('no torch')"], env=variables)
    assert (quiet.stdout, quiet.stderr) == ("no torch\n", "")
    # A folder of that name is a package without a loader.
    (tmp_path / "other" / "torch").mkdir(parents=True)
    variables["PYTHONPATH"] = f"{BOOT}:{tmp_path / 'other'}"
    folder = start([python, "-c", "import torch; print(torch.__spec__.origin)"], env=variables)
    assert (folder.stdout, folder.stderr) == ("None\n", "")


def test_zeromean_that_cannot_be_imported_is_an_error(tmp_path: Path, fake_torch: Path) -> None:
    (fake_torch / "zeromean").mkdir()
    (fake_torch / "zeromean" / "__init__.py").write_text("raise ImportError('broken')")
    variables = with_boot(Options(str(tmp_path)), {"PYTHONPATH": str(fake_torch)})
    done = start([sys.executable, "-c", "import torch; print('trained')"], env=variables)
    assert (done.stdout, done.stderr) == ("trained\n", "")
    record = read_records(tmp_path)
    assert (record.errors, record.missing) == (["ImportError: broken"], [])


def test_error_of_the_boot_file_is_recorded(tmp_path: Path, fake_torch: Path) -> None:
    variables = with_boot(Options(str(tmp_path), seed=1), {"PYTHONPATH": str(fake_torch)})
    done = start([sys.executable, "-c", "import torch; print('trained')"], env=variables)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    record = read_records(tmp_path)
    assert record.errors
    assert "error in zeromean: AttributeError" in record.summary()


@pytest.mark.parametrize(
    "lines", ["print('next one')", "raise ValueError('broken')", "import nope"]
)
def test_next_sitecustomize_runs_as_without_zeromean(tmp_path: Path, lines: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(lines)
    words = [sys.executable, "-c", "import sys; print(sys.modules.get('sitecustomize'), sys.path)"]
    bare = start(words, env={"PYTHONPATH": str(tmp_path)})
    done = start(words, env=with_boot(Options(str(tmp_path)), {"PYTHONPATH": str(tmp_path)}))
    assert (done.stdout, done.stderr) == (bare.stdout, bare.stderr)


SEEDED = """
import random, numpy, torch
print([random.random(), numpy.random.rand(), torch.rand(1).item()])
random.seed(a=1); numpy.random.seed(2); torch.manual_seed(seed=3)
print([random.random(), numpy.random.rand(), torch.rand(1).item()])
random.seed("words")  # cannot be shifted
print([random.random()])
random.seed(1.5); numpy.random.seed((2, 3))
print([random.random(), numpy.random.rand()])
"""


@pytest.mark.parametrize("shift", [None, 5])
def test_seeds_of_a_program(tmp_path: Path, shift: int | None) -> None:
    variables = with_boot(Options(str(tmp_path), seed=9, shift_seeds=shift), environment())
    done = start([sys.executable, "-c", SEEDED], env=variables)
    assert (done.returncode, read_records(tmp_path).errors) == (0, [])

    def expected(*seeds: int) -> str:
        random.seed(seeds[0])
        np.random.seed(seeds[1])
        torch.manual_seed(seeds[2])
        return str([random.random(), np.random.rand(), torch.rand(1).item()])

    from_outside, own, words, others = done.stdout.splitlines()
    assert from_outside == expected(9, 9, 9)
    more = shift or 0
    assert own == expected(1 + more, 2 + more, 3 + more)
    random.seed("words")
    assert words == str([random.random()])
    random.seed(1.5 + more)
    np.random.seed([2 + more, 3 + more])
    assert others == str([random.random(), np.random.rand()])


SEEDED_ON_GPUS = """
import torch
def waiting():  # the seed that GPUs will get when they are used
    (cell,) = torch.cuda._lazy_seed_tracker.manual_seed_all_cb[0].__closure__
    return cell.cell_contents
torch.manual_seed(3)
print(waiting())
torch.cuda.manual_seed_all(4)
print(waiting())
"""


def test_seeds_of_gpus_are_shifted_once(tmp_path: Path) -> None:
    variables = with_boot(Options(str(tmp_path), shift_seeds=5), environment())
    done = start([sys.executable, "-c", SEEDED_ON_GPUS], env=variables)
    assert (done.returncode, done.stdout) == (0, "8\n9\n")


def test_merging_counts_ranks_once() -> None:
    def one(rank: int, change: float) -> Record:
        entry = OptimizerRecord("SGD", "centered", at="at=gradient", centered=2, steps=5)
        entry.mean_change, entry.holds = change, change < 1
        return Record([entry], processes=1, torch=True, ranks=[rank])

    merged = merge([Record(torch=True), one(1, 2.0), one(0, 1e-8)])
    (entry,) = merged.optimizers
    assert (entry.optimizers, entry.steps, entry.mean_change, entry.holds) == (1, 5, 2.0, False)
    assert (merged.processes, merged.ranks) == (2, [0, 1])
    assert "NOT CENTERED" in merged.summary()


def test_quiet_shows_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = OptimizerRecord("SGD", "centered", at="at=gradient", centered=2, steps=5)
    for holds, shown in ((True, False), (False, True)):
        entry.holds = holds
        monkeypatch.setattr("zeromean.cli.run.run", lambda *_: (0, Record([entry], processes=1)))
        with pytest.raises(SystemExit) as ended:
            main(["--quiet", "train.py"])
        assert ended.value.code == 0
        assert ("NOT CENTERED as expected" in capsys.readouterr().err) == shown


def test_optimizer_may_be_collected_during_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(str(tmp_path))
    left = [OptimizerRecord(name, "plain", steps=1) for name in "abc"]
    for entry in left:
        recorder.add(entry)
    recorder.retire(left.pop())

    def copied(entry: OptimizerRecord, **changes: object) -> OptimizerRecord:
        if left:
            recorder.retire(left.pop())  # as the garbage collector does
        return dataclasses.replace(entry, **changes)

    monkeypatch.setattr("zeromean.programs.record.replace", copied)
    for _ in range(2):
        recorder.write()
        entries = read_records(tmp_path).optimizers
        assert sorted((one.optimizer, one.optimizers) for one in entries) == [
            ("a", 1),
            ("b", 1),
            ("c", 1),
        ]


def test_record_survives_json(tmp_path: Path) -> None:
    record = Record([OptimizerRecord("SGD", "plain", steps=2)], processes=1, torch=True)
    (tmp_path / "1.json").write_text(record.dumps())
    assert read_records(tmp_path) == record
    assert json.loads(record.dumps())["optimizers"][0]["steps"] == 2


def test_record_of_another_version_is_read_without_its_own_fields(tmp_path: Path) -> None:
    record = Record([OptimizerRecord("SGD", "plain", steps=2)], processes=1, torch=True)
    content = json.loads(record.dumps())
    content["added"] = content["optimizers"][0]["added"] = 1
    (tmp_path / "1.json").write_text(json.dumps(content))
    assert read_records(tmp_path) == record


def test_rank_counts_only_with_an_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    recorder = Recorder(str(tmp_path))
    recorder.write()
    assert read_records(tmp_path).ranks == []
    recorder.add(OptimizerRecord("SGD", "plain", steps=1))
    recorder.write()
    assert read_records(tmp_path).ranks == [3]


@pytest.mark.parametrize("word", ["python train.py " + 50 * "--flag ", "x" * 300 + ".py"])
def test_name_that_is_too_long_for_a_file_is_refused(word: str) -> None:
    with pytest.raises(ZeromeanError, match="there is no"):
        resolve([word])

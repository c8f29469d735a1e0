"""Programs as tasks: their metric, their output, their processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from zeromean.errors import ZeromeanError, ZeromeanWarning
from zeromean.programs.record import OptimizerRecord, Record
from zeromean.study import Method, ProgramTask, Study, Tuning
from zeromean.study.engine.run import check_programs
from zeromean.study.spec.program import MetricSource, parse_metric
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.tasks import program
from zeromean.study.tasks.interface import Job
from zeromean.study.tasks.program import (
    Ended,
    OutputReader,
    Point,
    ProgramRunner,
    execute,
    read_points,
)


def task(*command: str, metric: str = "loss=loss NUMBER", **options: object) -> ProgramTask:
    return ProgramTask(command=command or ("train.py",), metric=metric, **options)  # type: ignore[arg-type]


def read(pattern: str, text: str | bytes) -> list[float]:
    reader = OutputReader(parse_metric(f"x={pattern}"))
    reader.add(text.encode() if isinstance(text, str) else text, 1.0)
    reader.finish(2.0)
    return [point.value for point in reader.points]


def run(code: str, timeout: float | None = None, reader: OutputReader | None = None):
    reader = reader or OutputReader(parse_metric("x=x NUMBER"))
    return execute([sys.executable, "-c", code], dict(os.environ), None, timeout, reader), reader


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("loss 1.5\nloss 2\n", [1.5, 2]),
        ("loss 1.3280e+01\nloss -2E-3\nloss .5\nloss 1.\n", [13.28, -0.002, 0.5, 1]),
        ("loss nan\nloss -inf\nloss NaN", [math.nan, -math.inf, math.nan]),
        ("loss 1 loss 2\n", [2]),  # the last match of a line
        ("loss 1\rloss 2\rloss 3\n", [1, 2, 3]),  # a progress bar
        ("\x1b[1mloss \x1b[32m0.25\x1b[0m\n", [0.25]),
        ("no number: loss\n", []),
        (b"\xff\x00\xfe loss 4 \xff\n", [4]),
    ],
)
def test_pattern_finds_numbers(text: str | bytes, values: list[float]) -> None:
    assert read("loss NUMBER", text) == pytest.approx(values, nan_ok=True)


def test_line_may_come_in_pieces() -> None:
    reader = OutputReader(parse_metric("x=loss NUMBER"))
    for piece in (b"lo", b"ss 1", b".5", b"\nloss 2"):
        reader.add(piece, 1.0)
    reader.finish(1.0)
    assert [point.value for point in reader.points] == [1.5, 2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("loss 12.5", 12.5),
        ("loss: -200.0", -200),
        ("loss=-.5", -0.5),
        ("loss 1e-05", 1e-5),
        ("loss 1.E-05", 1e-5),
        ("loss....0.5", 0.5),
        ("loss -inf", -math.inf),
        ("loss of epoch-12", 12),
        ("loss 3 and no information", 3),
    ],
)
def test_number_behind_anything_is_read_whole(text: str, value: float) -> None:
    assert read("loss.*NUMBER", text) == [value]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"loss ([\d.]+)", "loss 1.3280e+01"),
        (r"loss (\d+)", "loss 0.5"),
        (r"loss.*([\d.]+)", "loss 12.5"),
        (r"loss -?([\d.]+)", "loss -12.5"),
    ],
)
def test_match_of_a_part_of_a_number_is_a_warning(pattern: str, text: str) -> None:
    with pytest.warns(ZeromeanWarning, match="Put NUMBER in the place of the number"):
        read(pattern, text)


@pytest.mark.parametrize("pattern", ["loss NUMBER", "loss.*NUMBER"])
@pytest.mark.parametrize("number", ["1,234.56", "-1,234,567", "12,345"])
def test_number_with_commas_is_a_warning(pattern: str, number: str) -> None:
    with pytest.warns(ZeromeanWarning, match="print the number without commas"):
        read(pattern, f"loss {number}")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"loss NUMBER", "loss 0.5,128 images"),
        (r"loss NUMBER", "loss 1, accuracy 2"),
        (r"loss .*NUMBER", "loss 12,345,0.5"),
        (r"loss NUMBER", "loss 3 at step 1,200"),
        (r"Accuracy: .*\(NUMBER%", "Accuracy: 9858/10000 (98.6%)"),
        (r"accuracy(.*)", "accuracy  nan"),
        (r"took NUMBER", "took 3epochs"),
    ],
)
def test_match_of_a_whole_number_is_no_warning(pattern: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(pattern, text)) == 1


def test_match_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ZeromeanError, match="found 'high', which is not a number"):
        read(r"loss (\w+)", "loss high")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("loss", "not of the form NAME=REGEX"),
        ("=loss (.*)", "not of the form NAME=REGEX"),
        ("loss=loss", "has no groups; one has to hold the number. Put NUMBER in the place"),
        ("loss=(a) (b)", "has 2 groups"),
        ("loss=loss ((", "not a regular expression"),
        ("loss=csv:file", "names no file or no COLUMN"),
        ("loss=json:../file:a", "not below the folder"),
        ("loss=csv:f.csv:a", "the command has no {out}"),
        ("speed=v NUMBER", "whether a higher speed is better is not known"),
    ],
)
def test_bad_metric_is_refused(metric: str, message: str) -> None:
    with pytest.raises(ZeromeanError, match="(?s)" + message.replace("{", r"\{")):
        task(metric=metric)


@pytest.mark.parametrize(
    ("name", "higher"), [("accuracy", True), ("val_loss", False), ("eval top1", True)]
)
def test_direction_follows_from_the_name(name: str, higher: bool) -> None:
    assert task(metric=f"{name}=a NUMBER").metric_of().higher_is_better is higher
    turned = task(metric=f"{name}=a NUMBER", higher=not higher)
    assert turned.metric_of().higher_is_better is not higher


@pytest.mark.parametrize(
    ("tuned_by", "higher"),
    [("val_loss", False), ("val_accuracy", True), ("speed", True)],
)
def test_tuning_metric_has_its_own_direction(tuned_by: str, higher: bool, tmp_path: Path) -> None:
    tune_metric = f"{tuned_by}=b NUMBER"
    spec = task("{lr}", metric="speed=a NUMBER", tune_metric=tune_metric, higher=True, best=True)
    study = Study(tasks=(spec,), tuning=Tuning(values={"lr": (1.0,)}))
    info = ProgramRunner(study, spec).info
    assert (info.metric.name, info.tuning_metric.name) == ("speed", tuned_by)
    assert info.metric.higher_is_better
    assert info.tuning_metric.higher_is_better is higher
    trial = job(study, tmp_path)._replace(key=Key("a", "program", "plain", 1, 0))
    points = [Point(1.0), Point(3.0), Point(2.0)]
    ended = Ended(0, 1.0, False)
    made = ProgramRunner(study, spec)._make_run(trial, points, {}, ended, None, {})
    assert made.epochs[-1].score == (3.0 if higher else 1.0)


def test_tuning_metric_of_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ZeromeanError, match=r"whether a higher speed is better .* Name it loss"):
        task(metric="loss=a NUMBER", tune_metric="speed=b NUMBER", higher=False)


@pytest.mark.parametrize(
    ("command", "label"),
    [
        ("python -u train.py -m resnet18", "train.py"),
        ("torchrun --log=a.sh -m package.train other.py", "package.train"),
        ("./train --fast", "./train"),
        ("--fast", "--fast"),
    ],
)
def test_label_is_the_program(command: str, label: str) -> None:
    assert task(*command.split()).label == label


def test_metric_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.csv").write_text("epoch,acc\n0,0.5\n1,0.75\n2,\n")
    (tmp_path / "r.json").write_text('{"test": {"acc": 0.5, "all": [1, null]}}')
    (tmp_path / "b.csv").write_text("acc,epoch\n0.5,0\n", encoding="utf-8-sig")
    texts = 'text,acc\r\na\u2028b,0.5\r\n"a\nb\x0c",0.75\r\n'
    (tmp_path / "c.csv").write_text(texts, encoding="utf-8", newline="")
    lines = '{"loss": 2, "text": "a\u2028b"}\n\n{"other": 1}\n{"loss": 1e-3}\n'
    (tmp_path / "r.jsonl").write_text(lines, encoding="utf-8")

    def values(kind: str, file: str, key: str) -> list[float]:
        return [p.value for p in read_points(MetricSource("x", kind, "", file, key), [tmp_path])]

    assert values("csv", "*/log.csv", "acc") == [0.5, 0.75]
    assert values("csv", "b.csv", "acc") == [0.5]
    assert values("csv", "c.csv", "acc") == [0.5, 0.75]
    assert values("json", "r.json", "test.acc") == [0.5]
    assert values("json", "r.json", "test.all") == pytest.approx([1, math.nan], nan_ok=True)
    assert values("jsonl", "r.jsonl", "loss") == [2, 0.001]
    for kind, file, key, message in (
        ("csv", "none.csv", "acc", "the program wrote no file none.csv"),
        ("csv", "*/log.csv", "x", "log.csv has the columns epoch, acc"),
        ("json", "r.json", "test.x", "r.json has no test.x"),
        ("json", "a/log.csv", "x", "Expecting value"),
        ("json", "r.json", "test", "is not a number"),
    ):
        with pytest.raises(ValueError, match=message):
            values(kind, file, key)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("csv", "acc\n1\n2\n", "acc\n1\n2\n3\n"),
        ("jsonl", '{"acc": 1}\n', '{"acc": 1}\n{"acc": 3}\n'),
    ],
)
def test_rows_of_an_earlier_training_do_not_count(
    kind: str, before: str, after: str, tmp_path: Path
) -> None:
    source, file = MetricSource("acc", kind, "", "log", "acc"), tmp_path / "log"
    file.write_text(after)
    copied = {file: before.encode()}
    assert [p.value for p in read_points(source, [tmp_path], copied=copied)] == [3]
    file.write_text(before)  # written again with the same content
    assert read_points(source, [tmp_path], copied=copied) == read_points(source, [tmp_path])


def test_copied_folder_does_not_lead_back(tmp_path: Path) -> None:
    source, copy = tmp_path / "project", tmp_path / "out" / "runs" / "a" / "work"
    (source / "saved").mkdir(parents=True)
    (source / "last").symlink_to(source / "saved")
    (source / "next").symlink_to("saved")
    (source / "data").symlink_to(tmp_path)
    program._copy_folder(source, copy, tmp_path / "out")
    for name in ("last", "next"):
        assert (copy / name).resolve() == copy / "saved"
    assert (copy / "data").resolve() == tmp_path
    with pytest.raises(ZeromeanError, match="is or contains the working folder"):
        program._copy_folder(source, source / "runs" / "a" / "work", source)


def test_fingerprint_covers_the_files_that_words_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variant = Method("warm", arguments=("--more", "warm.yaml"))
    spec = task("train.py", "--config=a.yaml", "--data", "images.npz")
    runner = ProgramRunner(Study(tasks=(spec,), methods=("plain", variant)), spec)
    found = set()
    for name in ("train.py", "a.yaml", "warm.yaml", "images.npz"):
        (tmp_path / name).write_text("1")
        found.add(runner._fingerprint())
    assert len(found) == 3  # the last file may be an output


@pytest.mark.parametrize("file", ["own/train.py", "own/train/__main__.py"])
def test_fingerprint_covers_the_module_that_is_run(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = task("python", "-m", "own.train")
    runner = ProgramRunner(Study(tasks=(spec,)), spec)
    before = runner._fingerprint()
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("1")
    assert runner._fingerprint() != before


def test_failed_check_of_a_run_is_a_warning() -> None:
    entry = OptimizerRecord("SGD", "centered", at="at=gradient", centered=1, holds=False)
    entry.notes = ["plain is not plain: SGD centers by itself"]
    with pytest.warns(ZeromeanWarning) as caught:
        program._check_record(Record([entry]), Method("gc", gradient="gc"), Ended(0, 1.0, False))
    assert [str(one.message) for one in caught] == [
        "In a run of gc: SGD at=gradient was NOT CENTERED as expected.",
        "In a run of gc: plain is not plain: SGD centers by itself.",
    ]


@pytest.mark.parametrize("method", [Method("plain"), Method("gc", gradient="gc")])
def test_program_that_centralizes_itself_is_refused(method: Method) -> None:
    record = Record([OptimizerRecord("SGD", "already centralized", steps=3)])
    with pytest.raises(ZeromeanError, match="centralizes its SGD itself, so plain would"):
        program._check_record(record, method, Ended(0, 1.0, False))
    variant = Method("own", arguments=("--gc",))
    program._check_record(record, variant, Ended(0, 1.0, False))


def test_optimizer_that_is_left_alone_is_a_warning() -> None:
    centered = OptimizerRecord("SGD", "centered", at="at=gradient", centered=1)
    alone = OptimizerRecord("LBFGS", "left alone", "no model holds its parameters")
    wrapper = OptimizerRecord(
        "Outer", "left alone", "it steps through SGD, which is reached itself"
    )
    record = Record([centered, alone, wrapper])
    with pytest.warns(ZeromeanWarning) as caught:
        program._check_record(record, Method("gc", gradient="gc"), Ended(0, 1.0, False))
    assert [str(one.message) for one in caught] == [
        "In a run of gc: LBFGS left alone: no model holds its parameters."
    ]
    program._check_record(record, Method("plain"), Ended(0, 1.0, False))


def test_devices_without_jobs_are_refused() -> None:
    study = Study(tasks=(task("train.py", "{out}", devices=("0", "1")),))
    with pytest.raises(ZeromeanError, match=r"2 devices, but jobs is 1.*--jobs 2"):
        check_programs(study, jobs=1, ray=None)
    check_programs(study, jobs=2, ray=None)


@pytest.mark.parametrize(("last", "tuned_by"), [(0.25, 0.75), (math.nan, math.nan)])
def test_best_score_of_a_trial_hides_no_divergence(
    last: float, tuned_by: float, tmp_path: Path
) -> None:
    spec = task("{lr}", metric="accuracy=acc NUMBER", best=True)
    study = Study(tasks=(spec,), tuning=Tuning(values={"lr": (1.0,)}))
    one = job(study, tmp_path, lr=1.0)
    one = one._replace(key=one.key._replace(trial=0))
    points = [Point(0.5), Point(0.75), Point(last)]
    runner = ProgramRunner(study, study.tasks[0])
    made = runner._make_run(one, points, {}, Ended(0, 1.0, False), None, {})
    assert made.epochs[-1].score == pytest.approx(tuned_by, nan_ok=True)


def job(study: Study, out: Path, method: str = "plain", seed: int = 3, **values: float) -> Job:
    key = Key(study.tasks[0].label, "program", method, seed)
    candidate = Candidate(math.nan, None, tuple(sorted(values.items())))
    return Job(key, candidate, study.method(method), study.optimizers[0], 1, out)


def test_placeholders_are_filled_in_and_other_braces_stay(tmp_path: Path) -> None:
    spec = task("train.py", "{seed}x{seed}", "{out}/log", '{"a": 1}', "{lr}", "{steps}")
    variant = Method("gc@warm", gradient="gc", arguments=("--warmup", "{seed}", "{port}"))
    tuning = Tuning(values={"lr": (0.1, 0.01), "steps": (64.0,)})
    study = Study(tasks=(spec,), methods=("plain", variant), tuning=tuning)
    words = ProgramRunner(study, spec).fill(
        job(study, tmp_path, "gc@warm", lr=0.03, steps=64.0), tmp_path / "out"
    )
    assert words[:3] == ["train.py", "3x3", f"{tmp_path}/out/log"]
    assert words[3:-1] == ['{"a": 1}', "0.03", "64", "--warmup", "3"]
    assert 0 < int(words[-1]) < 65536


def test_fingerprint_is_that_of_the_files_that_a_program_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = task("./train.sh", "--save", "model.pt", "{" + "a" * 300 + "}")
    (tmp_path / "train.sh").write_text("")
    (tmp_path / "train.sh").chmod(0o755)
    runner = ProgramRunner(Study(tasks=(spec,)), spec)
    before = runner.info.fingerprint
    (tmp_path / "model.pt").write_text("saved by the first run")
    assert runner.info.fingerprint == before
    (tmp_path / "train.sh").write_text("python train.py")
    assert runner.info.fingerprint != before


@pytest.mark.parametrize("name", ["ws", "cwn+gc", "init=he", "norm=group"])
def test_methods_that_change_the_network_are_refused(name: str) -> None:
    with pytest.raises(ZeromeanError, match="cannot be applied to a program"):
        Study(tasks=(task(),), methods=("plain", name))


def test_programs_have_their_own_optimizer() -> None:
    study = Study(tasks=(task(),), methods=("plain", "gc", "gc-update"))
    assert study.optimizer_labels == ("program",)
    # Nothing is known of it, so both are trained.
    assert study.trained_methods("program") == ("plain", "gc", "gc-update")
    for changes, message in (
        ({"lr": 0.1}, "a program has its own learning rate"),
        ({"optimizers": ("adam",)}, "a program makes its own optimizers"),
        ({"tuning": {"rates": [0.1]}}, "tuning of a program needs values"),
    ):
        with pytest.raises(ZeromeanError, match=message):
            Study(tasks=(task(),), **changes)  # type: ignore[arg-type]
    with pytest.raises(ZeromeanError, match=r"no command contains \{lr\}"):
        Study(tasks=(task(),), tuning=Tuning(values={"lr": (0.1,)}))
    with pytest.raises(ZeromeanError, match="only a program can have"):
        Study(methods=("plain", Method("gc@a", gradient="gc", arguments=("a",))))


def test_runs_side_by_side_need_folders_of_their_own() -> None:
    study = Study(tasks=(task(),))
    with pytest.raises(ZeromeanError, match=r"in a study file, own_folder = true\)"):
        check_programs(study, 2, None)
    check_programs(study, 1, None)
    check_programs(Study(tasks=(task("train.py", "{out}"),)), 2, None)
    check_programs(Study(tasks=(task(own_folder=True),)), 2, None)


def test_exit_code_and_output_are_read() -> None:
    ended, reader = run("import sys; print('x 1'); print('x 2', file=sys.stderr); sys.exit(7)")
    assert (ended.code, ended.reason) == (7, "it ended with exit code 7")
    assert sorted(point.value for point in reader.points) == [1, 2]
    ended, _ = run("import os; print('x 1', flush=True); os.kill(os.getpid(), 11)")
    assert ended.reason == "it was ended by SIGSEGV"
    ended, reader = run("import os; print('x 1', flush=True); os._exit(0)")
    assert (ended.reason, len(reader.points)) == ("", 1)


def test_command_that_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "train"
    script.write_text("echo hello")
    script.chmod(0o755)
    reader = OutputReader(None)
    ended = execute([str(script)], dict(os.environ), None, None, reader)
    assert ended.code == 126
    assert reader.log.decode() == (
        f"{script} cannot be started (Exec format error). Start it by its interpreter, for"
        f" example: bash {script}\n"
    )


def ended_soon(pid: int) -> bool:
    """Return whether the process ends within a minute: a signal takes effect with a delay."""
    for _ in range(1200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


HANGING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("x", child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("new_session", [False, True])
def test_time_limit_ends_all_processes(new_session: bool) -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    hanging = HANGING.replace('600)"]', f'600)"], start_new_session={new_session}')
    ended, reader = run(ignoring + hanging, timeout=2)
    assert ended.timed_out
    assert "it was stopped after" in ended.reason
    assert ended_soon(int(reader.points[0].value))


def test_process_that_stays_in_the_background_is_ended() -> None:
    code = HANGING.replace("time.sleep(600)\n", "", 1).replace("\ntime.sleep(600)", "")
    ended, reader = run(code)
    assert ended.reason == ""
    assert ended_soon(int(reader.points[0].value))


def test_program_does_not_outlive_a_killed_comparison(tmp_path: Path) -> None:
    path = tmp_path / "hanging.py"
    path.write_text(HANGING)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys; from zeromean.study.tasks.program import OutputReader, execute\n"
            "reader = OutputReader(None)\n"
            "add = reader.add\n"
            "reader.add = lambda data, seconds: (os.write(1, data), add(data, seconds))\n"
            f"execute([sys.executable, {str(path)!r}], dict(os.environ), None, None, reader)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[1])
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert ended_soon(child)


def test_endless_output_stays_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LOG_BYTES", 1000)
    reader = OutputReader(parse_metric("x=x NUMBER"))
    reader.add(b"x 1\n", 0.0)
    for _ in range(300):
        reader.add(b"y" * 1000, 0.0)  # a line without an end
    reader.add(b"\nx 2\n", 0.0)
    assert [point.value for point in reader.points] == [1, 2]
    assert reader.log.startswith(b"x 1\n")
    assert reader.log.endswith(b"x 2\n")
    assert b"[...]" in reader.log
    assert len(reader.log) < 1100

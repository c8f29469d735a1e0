"""``zeromean compare``, ``study`` and ``report`` as a user meets them: files, or one clear line."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from study_files import patterns, write_npz
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from fast_programs import INTERRUPTIBLE
from zeromean.cli import progress
from zeromean.cli.main import app
from zeromean.cli.progress import LiveProgress
from zeromean.study import ImageTask, ProgramTask, Study
from zeromean.study.engine import results
from zeromean.study.report.table import MISSING
from zeromean.study.spec import toml
from zeromean.study.spec.records import Candidate, Epoch, Key, Run
from zeromean.study.tasks.training import Training

SMALL = ("--model", "mlp", "--epochs", "3", "--batch-size", "8", "--seeds", "2")
PROGRAM = (sys.executable, "-m", "zeromean")
VERDICT = re.compile("^gc: (too few seeds|no difference shown|helped|harmed)", re.M)


def invoke(*arguments: object, command: str = "compare") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(text).fetchall()


def scores(out: Path) -> dict[object, list[float]]:
    return {run.key: [epoch.score for epoch in run.epochs] for run in results.read(out).runs}


def test_comparison_starts_with_the_verdict_and_leaves_its_files(
    archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    code, stdout, _ = invoke(*SMALL, "--data", f"npz:{archive}", "--out", out)
    assert code == 0
    assert VERDICT.match(stdout)
    assert "Final accuracy" in stdout
    assert "".join(stdout.split()).endswith(f"{out}/study.sqlite")
    assert {"report.html", "study.sqlite"} <= {file.name for file in out.iterdir()}
    found = results.read(out)
    assert [(run.key.method, run.key.seed, len(run.epochs)) for run in found.runs] == [
        ("plain", 0, 3),
        ("gc", 0, 3),
        ("plain", 1, 3),
        ("gc", 1, 3),
    ]
    assert found.study.tasks[0].batch_size == 8
    assert {"torch", "numpy", "git revision"} <= found.sessions[0].keys()


def test_study_writes_logs_for_tensorboard_on_request(study: Study, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "out"
    file.write_text(toml.to_toml(study))
    assert invoke(file, "--out", out, "--tensorboard", command="study")[0] == 0
    logs = list((out / "tensorboard").glob("*/events*"))
    assert len(logs) == 4
    accumulator = EventAccumulator(str(logs[0].parent)).Reload()
    assert [event.step for event in accumulator.Scalars("score")] == [1, 2, 3]


def test_answer_is_printed_even_if_the_report_cannot_be_written(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.html").mkdir()
    code, stdout, stderr = invoke(*SMALL, "--data", f"npz:{archive}", "--out", tmp_path)
    assert code == 2
    assert "the results are safe in its study.sqlite" in stderr.splitlines()[-1]
    assert "Final accuracy" in stdout
    assert VERDICT.search(stdout)


def test_path_that_looks_like_markup_is_printed_as_a_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # the bar is for terminals
    monkeypatch.setenv("COLUMNS", "200")
    with LiveProgress(Study(tasks=(ImageTask(data="npz:a[/bold].npz", model="mlp"),)), []):
        pass
    assert "reading npz:a[/bold].npz" in capsys.readouterr().err


def test_bar_counts_what_is_left(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[LiveProgress] = []

    class Recorded(LiveProgress):
        def __enter__(self) -> LiveProgress:
            bars.append(self)
            return super().__enter__()

    monkeypatch.setattr(progress, "LiveProgress", Recorded)
    for seeds in (1, 3):
        data = ("--data", f"npz:{archive}", "--out", tmp_path / "out")
        assert invoke(*SMALL, *data, "--seeds", seeds)[0] == 0
    found = [(task.completed, task.total) for bar in bars for task in bar._bar.tasks]
    assert found == [(6, 6), (12, 12)]


def test_piped_progress_is_a_line_per_interval_and_one_at_the_end(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--data", f"npz:{archive}", "--out")
    _, _, stderr = invoke(*SMALL, *data, tmp_path / "out")
    assert stderr.splitlines()[-1].startswith("4 of 4 runs done, last ")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    _, _, stderr = invoke(*SMALL, *data, tmp_path / "other")
    counts = [line.partition(" runs")[0] for line in stderr.splitlines()]
    assert counts == [f"{number} of 4" for number in (1, 2, 3, 4)]


def test_piped_progress_names_the_tuning_trial(capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(tasks=(ImageTask(data="digits", model="mlp"),))
    key = Key(study.tasks[0].label, "sgd", "gc", seed=0, trial=1)
    with LiveProgress(study, [key]) as shown:
        shown.on_run(Run(key, Candidate(0.1), (), failure="out of memory"))
    assert " sgd tuning trial 2 gc: out of memory\n" in capsys.readouterr().err


def test_progress_counts_no_epochs_of_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(tasks=(ProgramTask(command=("train.py",), metric="loss=NUMBER"),))
    key = Key("train.py", study.optimizer_labels[0], "gc", seed=0)
    values = tuple(Epoch(number, {"score": math.nan}) for number in range(1, 6))
    with LiveProgress(study, [key]) as shown:
        shown.on_run(Run(key, Candidate(math.nan), values, test_score=math.nan))
    assert " seed 0 gc: diverged at its last value\n" in capsys.readouterr().err


@pytest.mark.parametrize(("scores", "warned"), [((0.5, 0.5, 0.5), 1), ((0.5, 0.4, 0.6), 0)])
def test_progress_names_identical_seeds_of_a_program_once(
    scores: tuple[float, ...], warned: int, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(tasks=(ProgramTask(command=("train.py",), metric="loss=NUMBER"),))
    with LiveProgress(study, []) as shown:
        for seed, score in enumerate(scores):
            for method, gain in (("plain", 0.0), ("gc", 0.1)):
                key = Key("train.py", study.optimizer_labels[0], method, seed)
                values = (Epoch(1, {"score": score + gain}),)
                shown.on_run(Run(key, Candidate(math.nan), values, test_score=score + gain))
    assert capsys.readouterr().err.count("begins like another seed") == warned


def test_recorded_command_repeats_the_results(archive: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert invoke(*SMALL, "--data", f"npz:{archive}", "--out", first)[0] == 0
    command = shlex.split(results.read(first).command)
    *words, out = command[1:]
    assert out == str(first)
    assert CliRunner().invoke(app, [*words, str(second)]).exit_code == 0
    assert scores(first) == scores(second)


def test_one_seed_has_too_few_for_every_method(archive: Path, tmp_path: Path) -> None:
    methods = ("--model", "cnn", "--methods", "gc-conv,plain,ws-conv,gc")
    data = ("--data", f"npz:{archive}", *methods, "--seeds", 1, "--out", tmp_path / "out")
    code, stdout, _ = invoke(*SMALL, *data)
    assert code == 0
    assert stdout.count("too few seeds.") == 3


def test_method_that_equals_another_one_is_trained_once(archive: Path, tmp_path: Path) -> None:
    data = ("--data", f"npz:{archive}", "--methods", "plain,gc,gc-update", "--out", tmp_path)
    code, stdout, _ = invoke(*SMALL, *data)
    assert code == 0
    assert "gc-update is the same method as gc with sgd; it was trained once." in stdout
    assert len(results.read(tmp_path).runs) == 4


def test_diverged_runs_are_kept_and_shown(archive: Path, tmp_path: Path) -> None:
    data = ("--data", f"npz:{archive}", "--lr", "1e30", "--out", tmp_path)
    code, stdout, stderr = invoke(*SMALL, *data)
    assert code == 0
    assert "2 of 2 plain runs and 2 of 2 gc runs did not finish" in " ".join(stdout.split())
    assert "seed 0 plain: diverged in epoch 1" in stderr
    assert {run.status.value for run in results.read(tmp_path).runs} == {"diverged"}


def test_tuned_comparison_states_what_it_leaves_out(archive: Path, tmp_path: Path) -> None:
    data = ("--data", f"npz:{archive}", "--tune", "0.01,0.05,0.1", "--out", tmp_path)
    code, _, _ = invoke(*SMALL, *data)
    assert code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "were chosen by noisy scores" in page


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--data", "idx:nowhere"), "idx:nowhere"),
        (("--data", "mnist"), "'mnist'"),
        (("--data", "cifar:nowhere"), "unpack it, and name the unpacked folder"),
        (("--data", "miniimagenet:nowhere"), "put them into nowhere/images"),
        (("--data", "svhn:nowhere"), "Put train_32x32.mat and test_32x32.mat"),
        (("--data", "npz:a\x1b[2Jb"), r"contains the character '\x1b'. Remove it"),
        (("--model", "vgg"), "model 'vgg' is not one of mlp, cnn, resnet20, resnet18"),
        (("--data", "text", "--model", "cnn"), 'model "cnn" does not read text'),
        (("--task", "nowhere:f", "--lr", "1"), "there is no module nowhere"),
        (("--task", "nowhere"), "Write it as module:function or file.py:function"),
        (
            ("--task", "x.py:f", "--model", "resnet20"),
            "brings its own data and model, but --model is given. Remove --model.",
        ),
        (("--task", "os:getcwd"), "has no customary learning rate"),
        (("--optimizer", "lion"), 'the optimizer "lion" is not one of sgd, sgdw, adam, adamw'),
        (("--tune", "high"), "--tune 'high' is not a list of numbers"),
        (("--tune", "0.1", "--lr", "0.1"), "lr and tuning are both given"),
        (("--methods", "plain,cwn+gc"), 'a part of the method "cwn+gc" changes nothing'),
        (("--methods", "plain,norm=none"), "changes nothing in this network"),
        (("--methods", "plain,gcc"), 'the method "gcc" is not one of plain, gc, gc-conv'),
        (("--methods", "plain,gc,gc"), "the methods gc and gc are the same"),
        (("--methods", "gc,gc-conv"), "Add plain"),
        (("--methods", "plain"), "plain is the only method"),
        (("--methods", ""), 'the method ""'),
        (("--methods", "plain,a\x1b[2J"), r'the method "a\x1b[2J"'),
        (
            ("--model", "mlp", "--methods", "plain,gc-conv"),
            'the method "gc-conv" needs conv layers',
        ),
        (("--batch-size", "0"), "zeromean: batch_size is 0; it has to be at least 1"),
        (("--epochs", "-1"), "zeromean: epochs is -1; it has to be at least 1"),
        (("--epochs", "9" * 30), "at most 100000"),
        (("--seeds", "0"), "seeds is 0"),
        (("--jobs", "0"), "jobs is 0"),
        (("--threads", "0"), "threads is 0"),
        (("--threads", "99999999999"), "at most 1024"),
        (("--seeds", "9" * 20), "at most 100000"),
        (("--data", "npz:\udcff"), "'npz:\\udcff' is not UTF-8. Rename it."),
        (("--out", "\udcff"), "'\\udcff' is not UTF-8"),
        (("--precision", "half"), "precision 'half' is not one of float32, bfloat16"),
        (("--epochs", "many"), "'--epochs'"),
        (("--lr", "nan"), "lr is nan; it has to be above 0"),
        (("--lr", "-0.1"), "lr is -0.1; it has to be above 0"),
        (("--lr", "inf"), "lr is inf; it has to be above 0"),
        (("--lr", "1e39"), "lr is 1e+39; it has to be above 0"),
        (("--batch-size", "899"), "batch_size 899 is larger than the number of training examples"),
        (("--batch-size", "1", "--model", "resnet20"), "normalizes over the batch"),
        (("--device", "abacus"), 'torch cannot use the device "abacus"'),
        (("--device", "meta"), 'torch cannot use the device "meta"'),
        (("--device", "hpu"), 'torch cannot use the device "hpu"'),
        (("--out", os.devnull), f"out {os.devnull} is a file"),
        (("--out", f"{os.devnull}/x"), "cannot be used (Not a directory)"),
        (("--out", "x" * 300), "cannot be used"),
        (("--momentum", "0.9"), "No such option: --momentum"),
    ],
)
def test_bad_input_ends_with_one_line_before_any_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Training, "advance", lambda training: pytest.fail("training began"))
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("zeromean: ")
    assert line in stderr
    assert stderr.strip().isprintable()
    assert list(tmp_path.iterdir()) == []


def test_images_too_small_for_the_network_are_refused(tmp_path: Path) -> None:
    images, labels = patterns(30, side=3)
    np.savez(tmp_path / "small.npz", images=images, labels=labels)
    code, _, stderr = invoke("--data", f"npz:{tmp_path / 'small.npz'}", "--batch-size", 8)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "3x3" in stderr


def test_folder_with_another_study_is_refused_and_left_alone(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = (*SMALL, "--data", f"npz:{archive}", "--out", out)
    assert invoke(*data)[0] == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    for others, named in (
        (("--lr", 0.1), "lr"),
        (("--methods", "plain,gc-update"), "label"),
        (("--epochs", 7, "--lr", 0.1, "--seeds", 9), "lr"),
    ):
        code, _, stderr = invoke(*data, *others)
        assert (code, stderr.count("\n")) == (2, 1)
        assert named in stderr
    archive.write_bytes(write_npz(tmp_path / "other.npz", seed=1).read_bytes())
    code, _, stderr = invoke(*data)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "does not have the data that the study began with" in stderr
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_command_on_a_finished_study_trains_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (*SMALL, "--data", f"npz:{archive}", "--out", tmp_path / "out")
    _, first, _ = invoke(*data)
    monkeypatch.setattr(Training, "advance", lambda training: pytest.fail("training began"))
    assert invoke(*data) == (0, first, "")


def test_program_refuses_in_one_line() -> None:
    done = subprocess.run(
        (*PROGRAM, "compare", "--batch-size", "0"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("zeromean: batch_size is 0; it has to be at least 1")
    assert done.stderr.endswith(". Raise batch_size.\n")


def test_output_into_a_narrow_encoding_keeps_its_signs(archive: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--seeds", "1", "--data", f"npz:{archive}", "--out", str(tmp_path / "out"))
    done = subprocess.run(
        (*PROGRAM, "compare", *options),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert MISSING in done.stdout.decode("utf-8")


@pytest.mark.parametrize("module", ["typer", "sklearn"])
def test_missing_extra_is_named_in_one_line(module: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = ['compare']\n"
        "from zeromean.__main__ import main; main()"
    )
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"zeromean: the module {module}")
    assert done.stderr.endswith("Run: pip install 'zeromean[study]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "options", "module", "extra"),
    [
        ({"tasks": [{"data": "hf:cifar10", "model": "mlp"}]}, (), "datasets", "hub"),
        (
            {"tuning": {"rates": [0.01, 0.1], "search": "optuna", "trials": 2}},
            (),
            "optuna",
            "tuning",
        ),
        ({}, ("--tensorboard",), "tensorboard", "tensorboard"),
    ],
)
def test_option_that_needs_more_names_its_extra(
    changes: dict[str, object],
    options: tuple[str, ...],
    module: str,
    extra: str,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (module, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    file, out = tmp_path / "mine.toml", tmp_path / "out"
    changed = toml.from_table({**toml.to_table(study), **changes})
    file.write_text(toml.to_toml(changed))
    code, _, stderr = invoke(file, "--out", out, *options, command="study")
    assert code == 2
    assert f"pip install 'zeromean[{extra}]'" in stderr
    assert stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("effect", ["0", "-1", "nan"])
def test_effect_that_is_none_is_refused_before_any_training(
    effect: str, study: Study, tmp_path: Path
) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "out"
    file.write_text(toml.to_toml(study))
    code, _, stderr = invoke(file, "--out", out, "--min-effect", effect, command="study")
    assert (code, "which is not a difference of scores above 0" in stderr) == (2, True)
    assert not out.exists()


def test_report_is_written_again_with_its_other_forms(archive: Path, tmp_path: Path) -> None:
    invoke(*SMALL, "--data", f"npz:{archive}", "--out", tmp_path)
    (tmp_path / "report.html").unlink()
    forms = ("--csv", "--markdown", "--min-effect", "0.01")
    code, stdout, _ = invoke(tmp_path, *forms, command="report")
    assert code == 0
    assert "Seeds to see 1.00 points" in stdout
    assert VERDICT.match(stdout)
    written = {file.name for file in tmp_path.iterdir()}
    assert {"report.html", "report.md", "runs.csv", "epochs.csv"} <= written


def test_report_of_a_folder_without_a_study_is_one_line(tmp_path: Path) -> None:
    code, stdout, stderr = invoke(tmp_path, command="report")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "study.sqlite does not exist" in stderr


def interrupt_once(process: subprocess.Popen[str], ready: Path, runs: int) -> tuple[int, str]:
    """Press Ctrl-C as soon as the database contains so many runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if query(ready, "SELECT count(*) FROM runs")[0][0] >= runs:
                break
        except sqlite3.OperationalError:
            pass  # not there yet
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        # Python ignores an interrupt inside a callback of its import system; a user tries again.
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.parametrize("runs", [0, 1])
def test_ctrl_c_ends_with_one_line_that_says_what_is_kept(
    archive: Path, tmp_path: Path, runs: int
) -> None:
    out = tmp_path / "out"
    epochs = "100000" if runs == 0 else "20"
    command = (*INTERRUPTIBLE, "compare", "--data", f"npz:{archive}", "--out", str(out))
    process = subprocess.Popen(
        (*command, "--model", "mlp", "--epochs", epochs, "--batch-size", "8", "--seeds", "1000"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        code, stderr = interrupt_once(process, out / "study.sqlite", runs)
    finally:
        process.kill()
    assert code == 130
    kept = query(out / "study.sqlite", "SELECT count(*) FROM runs")[0][0]
    assert (kept == 0) == (runs == 0)
    assert stderr.splitlines()[-1] == (
        f"zeromean: interrupted with {kept} of 2000 runs kept in {out}; the same command continues"
    )

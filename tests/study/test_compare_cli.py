"""The command as a user meets it: three files, or one clear line."""

from __future__ import annotations

import json
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
from zeromean.study.engine.train import Training

from zeromean.cli import app
from zeromean.study import ImageTask, Study
from zeromean.study.engine.store import Store
from zeromean.study.report.table import NOTHING
from zeromean.study.watchers import display
from zeromean.study.watchers.display import LiveProgress

SMALL = ("--model", "mlp", "--epochs", "3", "--batch-size", "8", "--seeds", "2")
PROGRAM = (sys.executable, "-m", "zeromean")
# A test run in the background ignores Ctrl-C, and what it starts would inherit that.
HEARING = (
    sys.executable,
    "-c",
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " runpy.run_module('zeromean', run_name='__main__', alter_sys=True)",
)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(text).fetchall()


def test_a_comparison_leaves_table_sentence_and_three_files(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    code, stdout, stderr = invoke(*SMALL, "--data", f"npz:{archive}", "--out", out)
    assert (code, stderr) == (0, "")
    assert "Final accuracy" in stdout
    assert re.search("^(No difference shown|gc ended (more|less) accurate)", stdout, re.M)
    assert "".join(stdout.split()).endswith(f"{out}/study.sqlite")
    assert sorted(file.name for file in out.iterdir()) == [
        "curves.png",
        "report.html",
        "study.sqlite",
    ]
    database = out / "study.sqlite"
    assert query(database, "SELECT method, seed, status FROM runs ORDER BY method, seed") == [
        ("gc", 0, "finished"),
        ("gc", 1, "finished"),
        ("plain", 0, "finished"),
        ("plain", 1, "finished"),
    ]
    assert query(database, "SELECT run, count(*), max(epoch) FROM epochs GROUP BY run") == [
        (run, 3, 3) for run in (1, 2, 3, 4)
    ]
    facts = dict(query(database, "SELECT key, value FROM study"))
    assert json.loads(str(facts["study"]))["tasks"][0]["batch_size"] == 8
    ((environment,),) = query(database, "SELECT environment FROM sessions")
    assert {"torch", "numpy", "git revision"} <= json.loads(str(environment)).keys()


def test_logs_for_tensorboard_are_written_on_request(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke(*SMALL, "--data", f"npz:{archive}", "--out", out, "--tensorboard")[0] == 0
    logs = list((out / "tensorboard").glob("*/events*"))
    assert len(logs) == 4
    accumulator = EventAccumulator(str(logs[0].parent)).Reload()
    assert [event.step for event in accumulator.Scalars("score")] == [1, 2, 3]


def test_the_answer_is_printed_even_if_the_page_cannot_be_written(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.html").mkdir()
    code, stdout, stderr = invoke(*SMALL, "--data", f"npz:{archive}", "--out", tmp_path)
    assert code == 2
    assert stderr.count("\n") == 1
    assert "all results are in" in stderr
    assert "Final accuracy" in stdout
    assert re.search("^(No difference shown|gc ended (more|less) accurate)", stdout, re.M)


def test_a_path_that_reads_like_markup_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # the bar is for terminals
    monkeypatch.setenv("COLUMNS", "200")
    study = Study(tasks=(ImageTask(data="npz:a[/bold].npz", model="mlp"),))
    with LiveProgress(study, []):
        pass
    assert "reading npz:a[/bold].npz" in capsys.readouterr().err


def test_the_bar_is_of_what_is_left(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[LiveProgress] = []

    class Told(LiveProgress):
        def __enter__(self) -> LiveProgress:
            bars.append(self)
            return super().__enter__()

    monkeypatch.setattr(display, "LiveProgress", Told)
    for seeds in (1, 3):
        data = ("--data", f"npz:{archive}", "--out", tmp_path / "out")
        assert invoke(*SMALL, *data, "--seeds", seeds)[0] == 0
    told = [(task.completed, task.total) for bar in bars for task in bar._bar.tasks]
    assert told == [(6, 6), (12, 12)]


def test_the_recorded_command_repeats_the_results(archive: Path, tmp_path: Path) -> None:
    accuracies = "SELECT method, seed, epoch, score FROM runs JOIN epochs ON run = id"
    first, second = tmp_path / "first", tmp_path / "second"
    assert invoke(*SMALL, "--data", f"npz:{archive}", "--out", first)[0] == 0
    ((command,),) = query(first / "study.sqlite", "SELECT value FROM study WHERE key = 'command'")
    _, _, *arguments = shlex.split(str(command).replace(str(first), str(second)))
    assert invoke(*arguments)[0] == 0
    assert query(first / "study.sqlite", accuracies) == query(second / "study.sqlite", accuracies)


def test_one_seed_and_four_methods(archive: Path, tmp_path: Path) -> None:
    data = ("--data", f"npz:{archive}", "--model", "cnn", "--methods", "gc-conv,plain,gc-update,gc")
    code, stdout, stderr = invoke(*SMALL, *data, "--seeds", 1, "--out", tmp_path / "out")
    assert (code, stderr) == (0, "")
    assert stdout.count("One pair of runs cannot tell") == 3


def test_a_diverged_run_is_kept_and_shown(archive: Path, tmp_path: Path) -> None:
    data = ("--data", f"npz:{archive}", "--lr", "1e30", "--out", tmp_path)
    code, stdout, _ = invoke(*SMALL, *data)
    assert code == 0
    assert "2 of 2 plain runs and 2 of 2 gc runs diverged" in stdout
    rows = query(tmp_path / "study.sqlite", "SELECT DISTINCT status FROM runs")
    assert rows == [("diverged",)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--data", "idx:nowhere"), "idx:nowhere, which is not a folder"),
        (("--data", "mnist"), "data 'mnist'; wanted digits, idx:DIR"),
        (("--data", "cifar:nowhere"), "(the Python version), unpack it, and name that folder"),
        (("--data", "miniimagenet:nowhere"), "put them into nowhere/images"),
        (("--crop", "4"), "resize or crop with digits"),
        (("--resize", "9" * 12), "resize = 999999999999; wanted 8192 or less"),
        (("--prepare", "noise"), "prepare 'noise'; wanted channel, pixel, zca"),
        (("--gray",), "gray with digits, whose images are"),
        (("--data", "svhn:nowhere"), "put train_32x32.mat and test_32x32.mat into nowhere"),
        (("--model", "vgg"), "model 'vgg'; wanted mlp, cnn, resnet20, resnet18"),
        (("--train-size", "0"), "train_size = 0; wanted 1 or more"),
        (("--train-size", "900"), "take 90 of the"),
        (("--imbalance", "0.5"), "imbalance = 0.5; wanted 1 or more"),
        (("--augment", "noise"), "augment 'noise'; wanted none, crop-flip"),
        (("--schedule", "warm"), "schedule 'warm'; wanted cosine, constant, every=EPOCHS"),
        (("--optimizer", "sgd+speed=3"), "optimizer 'sgd+speed=3' with 'speed=3'"),
        (("--optimizer", "adam,sgd+lr=1", "--lr", "1"), "optimizer sgd+lr=1 with lr = 1.0"),
        (("--tune", "high"), "--tune high; wanted learning rates with commas"),
        (("--trials", "3"), "--trials without --tune"),
        (("--tune", "0.1", "--lr", "0.1"), "lr = 0.1 and tuning"),
        (("--methods", "plain,cwn+gc"), "a part of it changes nothing"),
        (("--methods", "plain,norm=none"), "norm=none for a network where it would change nothing"),
        (
            ("--optimizer", "lion"),
            "optimizer 'lion'; wanted sgd, sgdw, adam, adamw",
        ),
        (("--methods", "plain,gcc"), "method 'gcc'; wanted plain, gc, gc-conv, gc-update"),
        (("--methods", "plain,gc,gc"), "each method once"),
        (("--methods", "gc,gc-conv"), "plain among them"),
        (("--methods", "plain"), "a method besides plain"),
        (("--methods", ""), "method ''"),
        (
            ("--model", "mlp", "--methods", "plain,gc-conv"),
            "digits/mlp, whose network has no conv layer",
        ),
        (("--batch-size", "0"), "batch_size = 0; wanted 1 or more"),
        (("--epochs", "-1"), "epochs = -1; wanted 1 or more"),
        (("--seeds", "0"), "seeds = 0; wanted 1 or more"),
        (("--jobs", "0"), "jobs = 0; wanted 1 or more"),
        (("--threads", "0"), "threads = 0; wanted 1 or more"),
        (("--threads", "99999999999"), "threads = 99999999999; wanted 1024 or fewer"),
        (("--seeds", "9" * 20), f"seeds = {'9' * 20}; wanted 100000 or fewer"),
        (
            ("--data", "npz:\udcff"),
            "'npz:\\udcff', which is not UTF-8; wanted UTF-8; fix: rename it",
        ),
        (("--out", "\udcff"), "'\\udcff', which is not UTF-8"),
        (("--precision", "half"), "precision 'half'; wanted float32, bfloat16"),
        (("--epochs", "many"), "'--epochs'"),
        (("--lr", "nan"), "lr = nan; wanted a positive float32"),
        (("--lr", "-0.1"), "lr = -0.1; wanted a positive float32"),
        (("--lr", "inf"), "lr = inf; wanted a positive float32"),
        (("--lr", "1e39"), "lr = 1e+39; wanted a positive float32"),
        (("--batch-size", "899"), "batch_size = 899 with 898 training examples"),
        (("--batch-size", "1", "--model", "resnet20"), "normalize over the batch"),
        (("--device", "abacus"), "device abacus, which torch cannot use here"),
        (("--device", "meta"), "device meta, which torch cannot use here"),
        (("--out", os.devnull), f"out {os.devnull}, which is a file"),
        (
            ("--out", f"{os.devnull}/x"),
            f"out {os.devnull}/x, which cannot be used (Not a directory)",
        ),
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
    assert list(tmp_path.iterdir()) == []


def test_images_too_small_for_the_network_are_refused(tmp_path: Path) -> None:
    images, labels = patterns(30, side=3)
    np.savez(tmp_path / "small.npz", images=images, labels=labels)
    code, _, stderr = invoke("--data", f"npz:{tmp_path / 'small.npz'}", "--batch-size", 8)
    assert code == 2
    assert "model 'cnn' on images of 3x3 pixels" in stderr


def test_a_folder_that_holds_another_study_is_refused_and_left_alone(
    archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = (*SMALL, "--data", f"npz:{archive}", "--out", out)
    assert invoke(*data)[0] == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    for others, named in (
        (("--lr", 0.1), "lr"),
        (("--methods", "plain,gc-update"), "methods"),
        (("--epochs", 7, "--lr", 0.1, "--seeds", 9), "lr, epochs"),
    ):
        code, _, stderr = invoke(*data, *others)
        assert code == 2
        assert f"already holds a study with other settings ({named}); wanted" in stderr
        assert stderr.count("\n") == 1
    archive.write_bytes(write_npz(tmp_path / "other.npz", seed=1).read_bytes())
    code, _, stderr = invoke(*data)
    assert code == 2
    assert "with other data than the study" in stderr
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_the_same_command_on_a_finished_study_trains_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (*SMALL, "--data", f"npz:{archive}", "--out", tmp_path / "out")
    _, first, _ = invoke(*data)
    monkeypatch.setattr(Training, "advance", lambda training: pytest.fail("training began"))
    assert invoke(*data) == (0, first, "")


def test_the_program_refuses_in_one_line_too() -> None:
    done = subprocess.run(
        (*PROGRAM, "compare", "--batch-size", "0"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("zeromean: got batch_size = 0; wanted 1 or more; fix: raise it\n")


def test_output_into_a_narrow_encoding_keeps_its_signs(archive: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--seeds", "1", "--data", f"npz:{archive}", "--out", str(tmp_path / "out"))
    done = subprocess.run(
        (*PROGRAM, "compare", *options),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert NOTHING in done.stdout.decode("utf-8")


@pytest.mark.parametrize("module", ["typer", "sklearn"])
def test_a_missing_extra_is_named_in_one_line(module: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = ['compare']\n"
        "from zeromean.__main__ import main; main()"
    )
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"zeromean: no module {module}")
    assert done.stderr.endswith("; fix: pip install 'zeromean[study]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (("--data", "hf:cifar10"), "datasets", "hub"),
        (("--tune", "0.01,0.1", "--trials", "2"), "optuna", "tuning"),
        (("--tensorboard",), "tensorboard", "tensorboard"),
    ],
)
def test_what_one_option_needs_has_an_extra_of_its_own(
    arguments: tuple[str, ...],
    module: str,
    extra: str,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (module, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "out"
    code, _, stderr = invoke(*SMALL, "--data", f"npz:{archive}", "--out", out, *arguments)
    assert code == 2
    assert stderr.endswith(f"; fix: pip install 'zeromean[{extra}]'\n")
    assert stderr.count("\n") == 1
    assert not out.exists()
    monkeypatch.undo()


@pytest.mark.parametrize("gain", ["0", "-1", "nan"])
def test_a_gain_that_is_none_is_refused_before_any_training(gain: str, tmp_path: Path) -> None:
    code, _, stderr = invoke("--gain", gain, "--out", tmp_path / "out")
    assert (code, "a difference of scores above 0" in stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_database_that_says_nothing_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path / "study.sqlite", {}).__exit__(None, None, None)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "does not say what was studied" in result.stderr


def interrupt_once(process: subprocess.Popen[str], ready: Path, runs: int) -> tuple[int, str]:
    """Presses Ctrl-C as soon as the database holds so many runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if query(ready, "SELECT count(*) FROM runs")[0][0] >= runs:
                break
        except sqlite3.OperationalError:
            pass  # not there yet
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise on Windows")
@pytest.mark.parametrize("runs", [0, 1])
def test_ctrl_c_ends_with_one_line_that_says_what_is_kept(
    archive: Path, tmp_path: Path, runs: int
) -> None:
    out = tmp_path / "out"
    epochs = "100000" if runs == 0 else "20"
    command = (*HEARING, "compare", "--data", f"npz:{archive}", "--out", str(out))
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
    assert stderr == (
        f"zeromean: interrupted with {kept} of 2000 runs kept in {out}; the same command goes on\n"
    )


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "compare" in result.stdout

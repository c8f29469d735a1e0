"""A study as a whole: turns, interruptions, several processes, and errors."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from msgspec.structs import replace
from study_helpers import PowerCut, records, with_task

from zeromean.errors import ZeromeanError
from zeromean.study import FunctionTask, ImageTask, Method, Study, read, run
from zeromean.study.engine import results
from zeromean.study.engine import run as engine_run
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.records import Epoch, Key, Run, RunStatus
from zeromean.study.spec.toml import to_toml
from zeromean.study.tasks import load as tasks_load
from zeromean.study.tasks.interface import Task
from zeromean.study.tasks.training import Training

pytestmark = pytest.mark.usefixtures("without_compiler")


class Turns(Watcher):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []
        self.runs: list[Run] = []

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self.seen.append((key.seed, epoch.number, key.method))

    def on_run(self, run: Run) -> None:
        self.runs.append(run)


def test_methods_take_turns_epoch_by_epoch(study: Study, tmp_path: Path) -> None:
    turns = Turns()
    run(study, tmp_path / "out", watcher=turns)
    order = {1: ("plain", "gc"), 2: ("gc", "plain"), 3: ("plain", "gc")}
    assert turns.seen == [
        (seed, number, method) for seed in (0, 1) for number in order for method in order[number]
    ]


def test_every_task_meets_every_optimizer_method_and_seed(study: Study, tmp_path: Path) -> None:
    several = replace(
        study,
        tasks=(*study.tasks, replace(study.tasks[0], model="cnn")),
        optimizers=("sgd", "adamw"),
        seeds=1,
    )
    found = run(several, tmp_path)
    assert len(records(found)) == 2 * 2 * 2
    assert [comparison.name.split("/")[-1] for comparison in found.comparisons] == [
        "mlp, sgd", "mlp, adamw", "cnn, sgd", "cnn, adamw",
    ]  # fmt: skip
    assert {one.candidate.lr for one in found.comparisons[1].runs} == {1e-3}
    assert read(tmp_path / "study.toml") == several


def test_equivalent_methods_are_trained_once_and_noted(study: Study, tmp_path: Path) -> None:
    same = replace(study, methods=("plain", "gc", "gc-update"), optimizers=("sgd", "adam"), seeds=1)
    found = run(same, tmp_path)
    by_sgd, by_adam = found.comparisons
    assert len(found.runs) == 2 + 3
    assert (by_sgd.methods, by_adam.methods) == (("plain", "gc"), ("plain", "gc", "gc-update"))
    assert by_sgd.notes == ["gc-update is the same method as gc with sgd; it was trained once."]
    assert by_sgd.of("gc-update") == by_sgd.of("gc")
    assert by_adam.notes == []
    assert results.missing_runs(same, tmp_path) == []


def test_epochs_record_training_and_test_metrics(study: Study, tmp_path: Path) -> None:
    found = run(with_task(study, seeds=1), tmp_path / "three classes")
    epoch = found.runs[0].epochs[-1]
    assert set(epoch.metrics) == {"train_loss", "train_score", "loss", "score", "learning_rate"}
    digits = Study(tasks=(ImageTask(model="mlp", epochs=2, train_size=200),), seeds=1)
    first, last = run(digits, tmp_path / "ten").runs[0].epochs
    assert first.metrics["learning_rate"] == 0.05
    assert last.metrics["learning_rate"] == pytest.approx(0.025)
    assert last.metrics["top5_accuracy"] > last.score > 0.1
    assert 0 < last.metrics["train_score"] <= 1


def test_a_diverged_run_leaves_the_others_going(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.advance

    def diverge(training: Training) -> Epoch:
        epoch = original(training)
        if training.job.key[2:4] == ("gc", 1) and len(training.epochs) == 2:
            epoch.metrics["train_loss"] = math.inf  # type: ignore[index]
        return epoch

    whole = records(run(study, tmp_path / "whole"))
    monkeypatch.setattr(Training, "advance", diverge)
    found = run(study, tmp_path / "diverged")
    assert {(*one.key[2:4], one.status, len(one.epochs)) for one in found.runs} == {
        ("plain", 0, RunStatus.FINISHED, 3), ("plain", 1, RunStatus.FINISHED, 3),
        ("gc", 0, RunStatus.FINISHED, 3), ("gc", 1, RunStatus.DIVERGED, 2),
    }  # fmt: skip
    for key, one in records(found).items():
        assert key[2:4] == ("gc", 1) or one == whole[key]


@pytest.mark.parametrize("epoch", range(0, 12, 2))
def test_an_interrupted_study_continues_and_ends_the_same(
    study: Study, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "cut", watcher=PowerCut(epoch))
    turns = Turns()
    cut = run(study, tmp_path / "cut", watcher=turns)
    assert len(turns.seen) == 12 - epoch - 1
    assert records(cut) == records(run(study, tmp_path / "whole"))
    assert {file.name for file in (tmp_path / "cut").iterdir()} <= {
        "study.sqlite", "study.toml", "study.lock",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "bit", "text", "empty", "folder"])
def test_a_damaged_checkpoint_costs_time_only(study: Study, tmp_path: Path, damage: str) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "cut", watcher=PowerCut(3))
    files = [*(tmp_path / "cut" / "work").glob("*.pt")]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        if damage == "bit":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        elif damage == "folder":
            file.unlink()
            file.mkdir()
            (file / "x").touch()
        else:
            ends = {"cut": content[:-100], "text": b"a study", "empty": b""}
            file.write_bytes(ends[damage])
    if damage == "folder":
        with pytest.raises(ZeromeanError, match="cannot be written"):
            run(study, tmp_path / "cut")
        return
    assert records(run(study, tmp_path / "cut")) == records(run(study, tmp_path / "whole"))


def test_threads_belong_to_the_study_and_are_restored(study: Study, tmp_path: Path) -> None:
    seen = set()

    class Threads(Watcher):
        def on_epoch(self, key: Key, epoch: Epoch) -> None:
            seen.add(torch.get_num_threads())

    before = torch.get_num_threads()
    run(replace(study, threads=2, seeds=1), tmp_path, watcher=Threads())
    assert seen == {2}
    assert torch.get_num_threads() == before


def test_interrupted_processes_resume_exactly(study: Study, tmp_path: Path) -> None:
    fixed = with_task(study, epochs=12, threads=1)
    with pytest.raises(RuntimeError, match="power cut"):
        run(fixed, tmp_path / "cut", jobs=2, watcher=PowerCut(8))
    assert not multiprocessing.active_children()
    turns = Turns()
    cut = run(fixed, tmp_path / "cut", jobs=2, watcher=turns)
    assert sorted(one.key for one in turns.runs) == sorted(records(cut))
    assert records(cut) == records(run(fixed, tmp_path / "whole"))


def test_dead_process_ends_the_study_in_one_line(study: Study, tmp_path: Path) -> None:
    class Kill(Watcher):
        def on_epoch(self, key: Key, epoch: Epoch) -> None:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(ZeromeanError, match="ended unexpectedly"):
        run(with_task(study, epochs=500, seeds=1), tmp_path, jobs=2, watcher=Kill())


def start_program(study: Study, out: Path) -> subprocess.Popen[bytes]:
    file = out.with_suffix(".toml")
    file.write_text(to_toml(study))
    code = (
        "import sys; from pathlib import Path; from zeromean.study import read, run\n"
        "run(read(Path(sys.argv[1])), sys.argv[2])"
    )
    return subprocess.Popen((sys.executable, "-c", code, str(file), str(out)))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9 on Windows")
def test_killed_study_resumes_exactly(study: Study, tmp_path: Path) -> None:
    long = with_task(study, epochs=40, threads=1, seeds=3)
    out = tmp_path / "killed"
    rng = random.Random(0)
    kills = 0
    for _ in range(2):
        process = start_program(long, out)
        # Imports take most of its time.
        while not (out / "work").is_dir() and process.poll() is None:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.6))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills
    assert records(run(long, out)) == records(run(long, tmp_path / "whole"))


def test_a_second_program_is_refused_in_one_line(study: Study, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "study.lock"),
        pytest.raises(ZeromeanError, match="another program is running the study in"),
    ):
        run(study, tmp_path)
    assert len(run(study, tmp_path).runs) == 4


def test_an_empty_database_is_one_of_an_interrupted_start(study: Study, tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").touch()
    assert len(run(study, tmp_path).runs) == 4


def test_python_takes_lists_and_text_paths(study: Study, tmp_path: Path) -> None:
    listed = Study(tasks=[*study.tasks], methods=["plain", "gc"], seeds=1)  # type: ignore[arg-type]
    assert listed == replace(study, seeds=1)
    assert run(listed, str(tmp_path)).out == tmp_path


def test_an_unfinished_study_has_no_results(study: Study, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path, watcher=PowerCut(4))
    with pytest.raises(ZeromeanError, match=r"holds 1 of 4 runs. Finish it: zeromean study .*"):
        results.read(tmp_path)
    with pytest.raises(ZeromeanError, match="does not exist"):
        results.read(tmp_path / "nowhere")
    assert results.count_runs(study, tmp_path) == (1, 4)


def test_each_process_checks_that_it_reads_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    drawn = Study(
        tasks=(FunctionTask(function="user_tasks:drawn_anew", epochs=1),), seeds=1, lr=0.1
    )
    with pytest.raises(ZeromeanError, match="does not have the data that the study began with"):
        run(drawn, tmp_path, jobs=2)


LATE = """
import os
import torch
from torch import nn
calls = 0
def loss(outputs, targets):
    global calls
    calls += 1
    if calls > 12:
        {}
    return nn.functional.cross_entropy(outputs, targets)
def task():
    data = torch.randn(32, 4), torch.arange(32) % 2
    return lambda: nn.Linear(4, 2), (data, data), loss
torch.manual_seed(0)
"""


@pytest.mark.parametrize(
    ("what", "problem", "jobs"),
    [
        (
            "raise ValueError('a\\nb')",
            "raised ValueError: a b in late.py, line 10, in epoch 2 of",
            1,
        ),
        ("raise SystemExit(0)", "raised SystemExit: 0 in late.py, line 10", 1),
        ("import sys; sys.exit('no')", "raised SystemExit: no in late.py, line 10", 2),
        ("outputs @ outputs", r"raised RuntimeError: .* in late.py, line 10", 1),
    ],
)
def test_errors_of_the_users_loss_end_in_one_line(
    tmp_path: Path, what: str, problem: str, jobs: int
) -> None:
    (tmp_path / "late.py").write_text(LATE.format(what))
    task = FunctionTask(function=f"{tmp_path / 'late.py'}:task", epochs=9, batch_size=8)
    with pytest.raises(ZeromeanError, match=problem) as caught:
        run(Study(tasks=(task,), lr=0.1, seeds=1), tmp_path / "out", jobs=jobs)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_user_stays_as_it_is(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text := "# mine\n" + to_toml(study))
    run(study, tmp_path)
    assert file.read_text() == text
    (tmp_path / "study.sqlite").unlink()
    with pytest.raises(ZeromeanError, match=r"study.toml declares another study"):
        run(replace(study, seeds=3), tmp_path)
    assert file.read_text() == text


@pytest.mark.parametrize("out", ["a\0b", "file/out", "a\udcff"])
def test_impossible_folders_are_named(
    study: Study, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ZeromeanError, match=r"out '.*' cannot be used"):
        run(study, out)


def test_studies_of_older_versions_are_refused_in_one_line(study: Study, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.sqlite")) as database, database:
        database.execute("CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.execute("INSERT INTO study VALUES ('study', '{}')")
    for use in (lambda: run(study, tmp_path), lambda: results.read(tmp_path)):
        with pytest.raises(ZeromeanError, match="made by another version of zeromean"):
            use()


def test_methods_of_a_table_are_trained(study: Study, tmp_path: Path) -> None:
    mine = Method("mine", initialization="he", clip_norm=1.0, gradient="gc")
    found = run(replace(study, methods=("plain", mine), seeds=1), tmp_path)
    assert [one.key.method for one in found.runs] == ["plain", "mine"]
    assert results.read(tmp_path).study.methods[1] == mine


def test_dead_process_between_groups_ends_the_study_in_one_line(
    study: Study, tmp_path: Path
) -> None:
    class Kill(Watcher):
        def on_run(self, run: Run) -> None:
            if run.key.method == "gc":  # the last run of its group
                time.sleep(0.2)
                for process in multiprocessing.active_children():
                    os.kill(process.pid or 0, signal.SIGKILL)
                time.sleep(0.2)

    with pytest.raises(ZeromeanError, match="ended unexpectedly"):
        run(replace(study, seeds=4), tmp_path, jobs=2, watcher=Kill())


def test_error_in_one_process_does_not_wait_for_the_others(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        LATE.replace("calls > 12", "torch.initial_seed() > 2**20").format("raise KeyboardInterrupt")
    )
    task = FunctionTask(function=f"{tmp_path / 'late.py'}:task", epochs=400, batch_size=8)
    turns = Turns()
    with pytest.raises(KeyboardInterrupt):
        run(Study(tasks=(task,), lr=0.1, seeds=2), tmp_path / "out", jobs=2, watcher=turns)
    assert not turns.runs


@pytest.mark.parametrize("jobs", [1, 2])
def test_recorded_threads_are_those_of_the_runs(study: Study, tmp_path: Path, jobs: int) -> None:
    (session,) = run(replace(study, seeds=1, threads=2), tmp_path, jobs=jobs).sessions
    assert session["processors"].endswith("torch uses 2")


def test_the_parent_of_several_processes_keeps_no_data(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(*arguments: object) -> Task:
        task = tasks_load.load(*arguments)  # type: ignore[arg-type]
        loaded.append(weakref.ref(task))
        return task

    class Free(Watcher):
        def on_epoch(self, key: Key, epoch: Epoch) -> None:
            gc.collect()
            assert loaded
            assert loaded[0]() is None

    monkeypatch.setattr(engine_run, "load", load)
    run(replace(study, seeds=1), tmp_path, jobs=2, watcher=Free())

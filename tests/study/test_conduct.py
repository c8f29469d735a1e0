"""A study as a whole: its turns, and that interruptions and company change nothing."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from zeromean.errors import ZeromeanError
from zeromean.study import declare
from zeromean.study.engine.train import Training
from zeromean.study.engine.units import Folder, units
from zeromean.study.results import Results
from zeromean.study.run import Epoch, Key, Run
from zeromean.study.study import Study
from zeromean.study.task import Task
from zeromean.study.watchers.progress import Nobody

Records = dict[Key, list[tuple[float, ...]]]


def records(results: Results) -> Records:
    """All but the seconds."""
    return {
        run.key: [
            (run.train_score or -1, run.test_loss or -1, run.test_score or -1),
            *((one.number, one.train_loss, one.loss, one.score) for one in run.epochs),
        ]
        for run in results.runs
    }


class Turns(Nobody):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self.seen.append((key.seed, epoch.number, key.method))


TURNS = [
    (number, method) for number in (1, 2, 3) for method in ("plain", "gc")[:: 2 * (number % 2) - 1]
]


def test_methods_take_turns_epoch_by_epoch(large: Study, tmp_path: Path) -> None:
    turns = Turns()
    large.run(tmp_path / "out", watcher=turns)
    assert turns.seen == [(seed, *turn) for seed in (0, 1) for turn in TURNS]


def test_the_seeds_of_small_networks_take_turns_together(study: Study, tmp_path: Path) -> None:
    turns = Turns()
    study.run(tmp_path / "out", watcher=turns)
    assert turns.seen == [(seed, *turn) for turn in TURNS for seed in (0, 1)]


def test_every_task_meets_every_optimizer_method_and_seed(study: Study, tmp_path: Path) -> None:
    other = dataclasses.replace(study.tasks[0], model="cnn")
    several = dataclasses.replace(
        study, tasks=(*study.tasks, other), optimizers=("sgd", "adamw"), seeds=1
    )
    results = several.run(tmp_path)
    assert len(records(results)) == 2 * 2 * 2
    assert [comparison.name.split("/")[-1] for comparison in results.comparisons] == [
        "mlp, sgd",
        "mlp, adamw",
        "cnn, sgd",
        "cnn, adamw",
    ]
    assert {run.candidate.lr for run in results.comparisons[1].runs} == {1e-3}
    assert declare.read(tmp_path / "study.toml") == several


def test_a_diverged_run_leaves_the_others_going(
    either: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.end_epoch

    def diverge(training: Training, total_loss: float, seconds: float) -> Epoch:
        if training.key[2:4] == ("gc", 1) and len(training.epochs) == 1:
            total_loss = math.inf
        return original(training, total_loss, seconds)

    whole = records(either.run(tmp_path / "whole"))
    monkeypatch.setattr(Training, "end_epoch", diverge)
    results = either.run(tmp_path / "diverged")
    lengths = {(*run.key[2:4], run.diverged, len(run.epochs)) for run in results.runs}
    assert lengths == {
        ("plain", 0, False, 3), ("plain", 1, False, 3), ("gc", 0, False, 3), ("gc", 1, True, 2),
    }  # fmt: skip
    found = records(results)
    for key in found:
        if key[2:4] != ("gc", 1):
            assert np.asarray(found[key][1:]) == pytest.approx(np.asarray(whole[key][1:]), rel=1e-4)


class PowerCut(Nobody):
    """Fails at the given epoch, counted from 0."""

    def __init__(self, epoch: int) -> None:
        self.left = epoch

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("epoch", range(0, 12, 2))
def test_a_study_goes_on_where_it_was_cut_and_ends_the_same(
    either: Study, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        either.run(tmp_path / "cut", watcher=PowerCut(epoch))
    turns = Turns()
    cut = either.run(tmp_path / "cut", watcher=turns)
    # What was told last is kept; of two runs that train together, that is so of both.
    together = 2 if either.tasks[0].model == "mlp" else 1
    assert len(turns.seen) == 12 - (epoch // together + 1) * together
    assert records(cut) == records(either.run(tmp_path / "whole"))
    assert sorted(file.name for file in (tmp_path / "cut").iterdir()) == ["study.sqlite"]


def test_a_broken_checkpoint_costs_time_alone(either: Study, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        either.run(tmp_path / "cut", watcher=PowerCut(3))
    files = [*(tmp_path / "cut" / "work").glob("*.pt")]
    assert files
    for number, file in enumerate(files):
        file.write_bytes(file.read_bytes()[: 100 * number])
    assert records(either.run(tmp_path / "cut")) == records(either.run(tmp_path / "whole"))


def test_checkpoints_hold_no_code(either: Study, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        either.run(tmp_path, watcher=PowerCut(1))
    files = [*(tmp_path / "work").glob("*.pt")]
    assert files
    for file in files:
        assert all(state["epochs"] for state in torch.load(file, weights_only=True).values())


def test_threads_are_the_studys_and_put_back(study: Study, tmp_path: Path) -> None:
    seen = set()

    class Threads(Nobody):
        def on_epoch(self, key: Key, epoch: Epoch) -> None:
            seen.add(torch.get_num_threads())

    before = torch.get_num_threads()
    dataclasses.replace(study, threads=2, seeds=1).run(tmp_path, watcher=Threads())
    assert seen == {2}
    assert torch.get_num_threads() == before


def test_two_jobs_end_as_one(study: Study, tmp_path: Path) -> None:
    told: list[Run] = []

    class Told(Nobody):
        def on_run(self, run: Run) -> None:
            told.append(run)

    fixed = dataclasses.replace(study, threads=1)
    results = fixed.run(tmp_path / "two", jobs=2, watcher=Told())
    assert sorted(run.key for run in told) == sorted(records(results))
    assert records(results) == records(fixed.run(tmp_path / "one"))


def test_a_job_that_dies_ends_the_study_with_a_line(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kill(Nobody):
        def on_epoch(self, key: Key, epoch: Epoch) -> None:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(ZeromeanError, match="ended with exit code -9"):
        dataclasses.replace(study, seeds=20).run(tmp_path, jobs=2, watcher=Kill())


def program(study: Study, out: Path) -> subprocess.Popen[bytes]:
    file = out.with_suffix(".toml")
    file.write_text(declare.as_toml(study))
    return subprocess.Popen(
        (sys.executable, "-m", "zeromean", "study", str(file), "--out", str(out)),
        stdout=subprocess.DEVNULL,
    )


def kept(out: Path) -> int:
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{(out / 'study.sqlite').as_uri()}?mode=ro", uri=True)) as base,
    ):
        return int(base.execute("SELECT count(*) FROM runs").fetchone()[0])
    return 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9 on Windows")
def test_killed_at_random_moments_a_study_ends_the_same(study: Study, tmp_path: Path) -> None:
    long = dataclasses.replace(
        study, tasks=(dataclasses.replace(study.tasks[0], epochs=40),), threads=1, seeds=3
    )
    out = tmp_path / "killed"
    rng = random.Random(0)
    kills = 0
    for _ in range(3):
        process = program(long, out)
        # Not before it has begun: imports take most of its time.
        while not (out / "work").is_dir() and process.poll() is None:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.6))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills
    assert records(long.run(out)) == records(long.run(tmp_path / "whole"))


def test_two_programs_on_one_study_share_it(study: Study, tmp_path: Path) -> None:
    long = dataclasses.replace(
        study, tasks=(dataclasses.replace(study.tasks[0], epochs=20),), threads=1, seeds=6
    )
    out = tmp_path / "shared"
    both = [program(long, out) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert kept(out) == 12
    assert records(long.run(out)) == records(long.run(tmp_path / "alone"))


def test_a_claim_is_one_process_s_until_it_ends(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder = Folder(tmp_path / "out")
    first, second = units(study)
    with folder.claim(first) as mine, folder.claim(first) as again, folder.claim(second) as other:
        assert (mine, again, other) == (True, False, True)
    with folder.claim(first) as mine:
        assert mine
    folder.tidy()
    assert list(folder.path.iterdir()) == []


def test_an_empty_database_is_one_that_another_process_is_making(
    study: Study, tmp_path: Path
) -> None:
    (tmp_path / "study.sqlite").touch()
    assert len(study.run(tmp_path).runs) == 4


def test_python_takes_lists_and_paths_too(study: Study, tmp_path: Path) -> None:
    listed = Study(tasks=[*study.tasks], methods=["plain", "gc"], seeds=1)  # type: ignore[arg-type]
    assert listed == dataclasses.replace(study, seeds=1)
    assert listed.run(str(tmp_path)).out == tmp_path


def test_an_unfinished_study_has_no_report(large: Study, tmp_path: Path) -> None:
    from zeromean.study import results

    with pytest.raises(RuntimeError, match="power cut"):
        large.run(tmp_path, watcher=PowerCut(4))
    with pytest.raises(ZeromeanError, match=r"1 of 4 runs; wanted a finished study; fix: .* --out"):
        results.read(tmp_path)
    with pytest.raises(ZeromeanError, match="does not exist"):
        results.read(tmp_path / "nowhere")


def test_labels_tell_tasks_apart() -> None:
    with pytest.raises(ZeromeanError, match="repeated"):
        Study(tasks=(Task(), Task(epochs=3)))


def test_of_two_studies_begun_at_one_moment_one_is_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(study, lr=0.07)
    monkeypatch.setattr("zeromean.study.engine.conduct.check_folder", lambda study, out: None)
    other.run(tmp_path)  # as if it had begun after the folder was looked at
    with pytest.raises(ZeromeanError, match="a study with other settings"):
        study.run(tmp_path)


def test_each_process_checks_that_it_reads_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    drawn = Study(tasks=(Task(function="user_tasks:drawn_anew", epochs=1),), seeds=2, lr=0.1)
    with pytest.raises(ZeromeanError, match="with other data than the study"):
        drawn.run(tmp_path, jobs=2)


def test_a_file_of_the_users_own_stays_as_it_is(study: Study, tmp_path: Path) -> None:
    several = dataclasses.replace(
        study, tasks=(*study.tasks, dataclasses.replace(study.tasks[0], model="cnn")), seeds=1
    )
    file = tmp_path / "study.toml"
    file.write_text(text := "# mine\n" + declare.as_toml(several))
    several.run(tmp_path)
    assert file.read_text() == text
    (tmp_path / "study.sqlite").unlink()
    with pytest.raises(ZeromeanError, match=r"study.toml, which declares another study"):
        dataclasses.replace(several, seeds=2).run(tmp_path)
    assert file.read_text() == text


def test_a_recorded_command_spells_every_number_out(tmp_path: Path) -> None:
    study = Study(lr=0.123456789, tasks=(Task(imbalance=10),))
    assert "--lr 0.123456789 " in study.command(tmp_path)
    assert study.tasks[0].label == Task(imbalance=10.0).label

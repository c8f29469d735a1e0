"""Read the runs of a study back from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from zeromean.errors import ZeromeanError
from zeromean.study.engine.scheduler import final_groups, planned_keys
from zeromean.study.engine.store import Store
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.records import FINAL, Key, Run
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import TaskSpec
from zeromean.study.spec.toml import from_table
from zeromean.study.tasks.interface import TaskInfo
from zeromean.tables import amount

DATABASE = "study.sqlite"
# Key of the numbers of seeds with which a study was finished before seeds were added.
BEGUN = "begun"


@dataclass(frozen=True)
class Comparison:
    """The runs of all methods on one task with one optimizer.

    Args:
        study: The study that the comparison belongs to.
        task: The task.
        optimizer: Label of the optimizer.
        info: Facts of the task.
        runs: Runs of all methods and seeds, including diverged ones.
    """

    study: Study
    task: TaskSpec
    optimizer: str
    info: TaskInfo
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Name for titles."""
        return f"{self.task.label}, {self.optimizer}"

    @property
    def metric(self) -> Metric:
        """The score."""
        return self.info.metric

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels of the trained methods: the first of each group of equivalent methods."""
        return self.study.trained_methods(self.optimizer)

    @property
    def notes(self) -> list[str]:
        """Sentences on methods that were not trained, and on identical or failed program runs."""
        notes = [
            f"{method} is the same method as {same} with {self.optimizer}; it was trained once."
            for method, same in self.study.distinct_methods(self.optimizer).items()
            if method != same
        ]
        if self.repeated and isinstance(self.task, ProgramTask):
            seeded = self.task.has("seed") or self.task.shift_seeds
            advice = (
                "Let the program use {seed}."
                if seeded
                else "Use --shift-seeds, or pass {seed} to the program."
            )
            notes.append(
                "All runs of a method begin with the same weights and gradient, or are identical,"
                f" so they count as one: the program sets its own seed. {advice}"
            )
        elif isinstance(self.task, ProgramTask):
            notes += self._starts()
        for method in self.methods:
            runs = self.of(method)
            failed = {seed: run.failure for seed, run in runs.items() if run.failure is not None}
            for seed, failure in [*failed.items()][:1]:
                notes.append(
                    f"{method} failed with {len(failed)} of {amount(len(runs), 'seed')};"
                    f" seed {seed}: {failure}"
                )
        return notes

    def _starts(self) -> list[str]:
        """Return notes on initial weights of a program that its seed does not decide."""
        plain, notes = self.finished(BASELINE), []
        known = [run.start_weights for run in plain.values() if run.start_weights is not None]
        if len(known) > 1 and len({*known}) == 1:
            notes.append(
                f"All runs of {BASELINE} begin with the same weights. Unless these are pretrained,"
                " let the seed decide them too."
            )
        for method in self.methods:
            pairs = [(run, plain[n]) for n, run in self.finished(method).items() if n in plain]
            differ = any(
                one.start_weights != other.start_weights
                for one, other in pairs
                if None not in (one.start_weights, other.start_weights)
                # A tuned value may be the size of a layer.
                and one.candidate.values == other.candidate.values
            )
            if differ and not self.study.method(method).arguments:
                notes.append(
                    f"{method} and {BASELINE} begin with different weights at the same seed, so"
                    " they are not paired: the seed does not decide all that the program draws."
                )
        return notes

    def of(self, method: str) -> dict[int, Run]:
        """Return the runs of a method, or of its equivalent, by their seed."""
        trained = self.study.distinct_methods(self.optimizer)[method]
        return {run.key.seed: run for run in self.runs if run.key.method == trained}

    def finished(self, method: str) -> dict[int, Run]:
        """Return the runs of a method that did not diverge or fail, by their seed."""
        return {seed: run for seed, run in self.of(method).items() if not run.diverged}

    @property
    def repeated(self) -> bool:
        """Whether all seeds of a program began alike, because it sets its own seed."""
        origins = [[run.origin for run in self.finished(one).values()] for one in self.methods]
        return (
            isinstance(self.task, ProgramTask)
            and max(map(len, origins)) > 1
            and all(len({*one}) <= 1 for one in origins)
        )

    @property
    def point(self) -> str:
        """The word for a point of a curve: an epoch, or whatever a program reports."""
        return "point" if isinstance(self.task, ProgramTask) else "epoch"

    @property
    def unusable(self) -> str:
        """The word for runs without a usable score, which only those of a program can fail."""
        return "diverged or failed" if isinstance(self.task, ProgramTask) else "diverged"

    @property
    def epochs(self) -> int:
        """Number of epochs that every finished run has; 0 if no run finished."""
        return min((len(run.epochs) for run in self.runs if not run.diverged), default=0)

    @property
    def early_epoch(self) -> int:
        """The epoch after a third of the training, which shows a faster start."""
        return math.ceil(self.epochs / 3)


@dataclass(frozen=True)
class Results:
    """A finished study.

    Args:
        study: The study.
        out: Folder of the study.
        runs: All runs, including diverged ones and trials.
        infos: Facts of each task, by its label.
        sessions: Versions and machine of each distinct environment.
        command: The command that made the results.
        threads: Number of CPU threads per run.
        begun: Numbers of seeds with which the study was finished before seeds were added, in order.
    """

    study: Study
    out: Path
    runs: tuple[Run, ...]
    infos: Mapping[str, TaskInfo]
    sessions: tuple[dict[str, str], ...]
    command: str
    threads: int
    begun: tuple[int, ...] = ()

    @property
    def growth(self) -> str:
        """A note on seeds that were added after results were seen; empty if there are none."""
        if not self.begun:
            return ""
        return f"; finished with {' and then with '.join(map(str, self.begun))} before more came"

    @property
    def comparisons(self) -> list[Comparison]:
        """One comparison per task and optimizer."""
        return [
            Comparison(
                self.study,
                self.study.task(task),
                optimizer,
                self.infos[task],
                tuple(
                    run
                    for run in self.runs
                    if (run.key.task, run.key.optimizer, run.key.trial) == (task, optimizer, FINAL)
                ),
            )
            for task, optimizer in self.study.cells
        ]


def read(out: Path) -> Results:
    """Return the results that a folder holds.

    Raises:
        ZeromeanError: The folder holds no study, or one that is not finished.
    """
    with open_store(out) as (store, study, infos):
        keys = {key for _, group in final_groups(study) for key in group}
        missing = len(keys - store.keys())
        if missing:
            raise ZeromeanError(
                f"{out} holds {len(keys) - missing} of {len(keys)} runs",
                f"Finish it: {store.facts.get('command', 'give the same command again')}",
            )
        with store.reading():
            runs = store.runs()
            return Results(
                study=study,
                out=out,
                runs=tuple(run for run in runs if run.key.trial != FINAL or run.key in keys),
                infos=infos,
                sessions=tuple(store.sessions()),
                command=store.facts["command"],
                threads=int(store.facts["threads"]),
                begun=tuple(begun(store)),
            )


@contextmanager
def open_store(out: Path) -> Iterator[tuple[Store, Study, dict[str, TaskInfo]]]:
    """Open the database of a folder, with its study and the facts of its tasks.

    Raises:
        ZeromeanError: The folder holds no study that can be read.
    """
    with Store(out / DATABASE) as store:
        with store.reading():
            try:
                study = from_table(json.loads(store.facts["study"]))
            except ZeromeanError as error:
                raise ValueError(str(error)) from error
            infos = msgspec.json.decode(store.facts["tasks"], type=dict[str, TaskInfo])
            if infos.keys() != {task.label for task in study.tasks}:
                raise ValueError("its tasks are not those of the study")
        yield store, study, infos


def begun(store: Store) -> list[int]:
    """Return the numbers of seeds with which the study was finished before seeds were added."""
    return msgspec.json.decode(store.facts.get(BEGUN, "[]"), type=list[int])


def check_same_data(infos: Mapping[str, TaskInfo], known: Mapping[str, TaskInfo]) -> None:
    """Raise an error if the data of a task are not those that the study began with.

    Raises:
        ZeromeanError: A fingerprint differs.
    """
    for label, info in infos.items():
        if label not in known or known[label].fingerprint != info.fingerprint:
            raise ZeromeanError(
                f"{label} does not have the data that the study began with; those of a program are"
                " its scripts and settings files",
                "Put the old data back, seed whatever the task draws, or pass another folder",
            )


def holds_study(out: Path) -> bool:
    """Return whether a study has begun in a folder."""
    database = out / DATABASE
    return database.exists() and database.stat().st_size > 0


def missing_runs(study: Study, out: Path) -> list[Key]:
    """Return the runs that a folder, which need not exist, does not hold yet.

    Trials that a growing grid will add are not known yet, so they are not included.
    """
    wanted = planned_keys(study)
    if not holds_study(out):
        return wanted
    with Store(out / DATABASE) as store:
        held = store.keys()
    return [key for key in wanted if key not in held]


def count_runs(study: Study, out: Path) -> tuple[int, int]:
    """Return how many of a study's runs a folder holds, and how many there are."""
    wanted = len(planned_keys(study))
    return wanted - len(missing_runs(study, out)), wanted


def remove_checkpoints(out: Path) -> None:
    """Remove the checkpoints of a study that is finished or whose database was removed."""
    work = out / "work"
    for suffix in ("pt", "new"):
        for file in work.glob(f"[0-9]*-[0-9]*-[0-9]*-*.{suffix}"):
            file.unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()

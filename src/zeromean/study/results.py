"""The finished runs of a study, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.declare import as_table, from_table
from zeromean.study.engine.stacked import fits
from zeromean.study.engine.units import Folder, units
from zeromean.study.methods import Method
from zeromean.study.metric import METRICS, Metric
from zeromean.study.problem import Problem
from zeromean.study.run import FINAL, Key, Run
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.task import Task


@dataclass(frozen=True)
class Facts:
    """What is known of a task once it was loaded.

    Args:
        description: One line on the data.
        split: One line on the test set.
        preparation: One line on what networks see of them.
        watched: "test" or "validation": what is scored after each epoch.
        metric: Name of the metric.
        steps: Of an epoch.
        digest: Fingerprint of the examples.
        stacked: Methods whose runs train several at a time.
    """

    description: str
    split: str
    preparation: str
    watched: str
    metric: str
    steps: int
    digest: str
    stacked: Sequence[str] = ()

    @classmethod
    def of(cls, study: Study, task: Task, problem: Problem) -> Facts:
        return cls(
            problem.description,
            problem.split,
            problem.preparation,
            "test" if problem.watched is problem.test else "validation",
            problem.metric.name,
            problem.steps(task.batch_size),
            problem.digest(),
            [
                method
                for method in study.methods
                if task.function is None
                and study.precision == "float32"
                and fits(problem.network(Method.parse(method), seed=0), task.batch_size)
            ],
        )


@dataclass(frozen=True)
class Comparison:
    """All methods on one task with one optimizer.

    Args:
        study: What it belongs to.
        task: What was learned.
        optimizer: Name of the optimizer.
        facts: On the task.
        runs: Of all methods and seeds, diverged ones too.
    """

    study: Study
    task: Task
    optimizer: str
    facts: Facts
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return f"{self.task.label}, {self.optimizer}"

    @property
    def metric(self) -> Metric:
        return METRICS[self.facts.metric]

    def of(self, method: str) -> dict[int, Run]:
        """The method's runs by their seed."""
        return {run.key.seed: run for run in self.runs if run.key.method == method}


@dataclass(frozen=True)
class Results:
    """A finished study.

    Args:
        study: What was asked for.
        out: Its folder.
        runs: All of them, diverged ones too.
        facts: On each task, by its label.
        sessions: Versions and machine, one entry for each that differs.
        command: What made it.
        threads: CPU threads of a run.
    """

    study: Study
    out: Path
    runs: tuple[Run, ...]
    facts: dict[str, Facts]
    sessions: tuple[dict[str, str], ...]
    command: str
    threads: int

    @property
    def comparisons(self) -> list[Comparison]:
        """One for each task and optimizer."""
        return [
            Comparison(
                self.study,
                self.study.task(task),
                optimizer,
                self.facts[task],
                tuple(
                    run
                    for run in self.runs
                    if (run.key.task, run.key.optimizer, run.key.trial) == (task, optimizer, FINAL)
                ),
            )
            for task, optimizer in self.study.cells
        ]


def read(out: Path) -> Results:
    """What the folder holds.

    Raises:
        ZeromeanError: It holds no study, or one that is not finished.
    """
    folder = Folder(out)
    with Store(folder.database) as store:
        if not {"study", "command", "threads", "tasks"} <= store.facts.keys():
            raise ZeromeanError(
                f"{folder.database}, which does not say what was studied",
                "a study.sqlite that this version made",
                "pass another folder",
            )
        study = from_table(json.loads(store.facts["study"]))
        kept = store.keys()
        wanted = [key for unit in units(study) for key in unit.keys]
        missing = [key for key in wanted if key not in kept]
        if missing:
            raise ZeromeanError(
                f"{out} with {len(wanted) - len(missing)} of {len(wanted)} runs",
                "a finished study",
                f"finish it: {store.facts['command']}",
            )
        return Results(
            study=study,
            out=out,
            runs=tuple(store.runs()),
            facts=decode_facts(store.facts["tasks"]),
            sessions=tuple(store.sessions()),
            command=store.facts["command"],
            threads=int(store.facts["threads"]),
        )


def encode(study: Study) -> str:
    """The study as the database holds it."""
    return json.dumps(as_table(study), sort_keys=True)


def is_same(study: Study, kept: str) -> bool:
    """Whether what a database holds has the study's settings; its note is none."""
    return _settings(encode(study)) == _settings(kept)


def _settings(text: str) -> object:
    settings: dict[str, object] = json.loads(text)
    return {name: value for name, value in settings.items() if name != "note"}


def decode_facts(text: str) -> dict[str, Facts]:
    """Facts by the tasks' labels, as the database holds them."""
    return {label: Facts(**values) for label, values in json.loads(text).items()}


def check_same_data(problems: Mapping[str, Problem], facts: Mapping[str, Facts]) -> None:
    """Refuses tasks, by their labels, with other examples than those that the study began with.

    Raises:
        ZeromeanError: Some are others.
    """
    for label, problem in problems.items():
        if facts[label].digest != problem.digest():
            raise ZeromeanError(
                f"{label} with other data than the study began with",
                "the same data, whenever and by whichever process they are read",
                "put the old data back, seed what the task draws, or pass another folder",
            )


def kept(study: Study, out: Path) -> tuple[int, int]:
    """How many runs the folder holds, and how many the study has."""
    wanted = sum(len(unit.keys) for unit in units(study))
    return wanted - len(missing(study, out)), wanted


def missing(study: Study, out: Path) -> list[Key]:
    """The runs that the folder, which need not exist, does not hold yet."""
    wanted = [key for unit in units(study) for key in unit.keys]
    folder = Folder(out)
    if not folder.database.is_file():
        return wanted
    with Store(folder.database) as store:
        held = store.keys()
    return [key for key in wanted if key not in held]

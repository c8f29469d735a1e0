"""The finished runs of a study, read back from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.declare import from_table
from zeromean.study.engine.units import Folder, units
from zeromean.study.facts import Facts, decode_facts
from zeromean.study.metric import METRICS, Metric
from zeromean.study.run import FINAL, Key, Run
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.task import Task

# The fact that tells of a study that got more seeds.
BEGUN = "begun"


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
        begun: With how many seeds it was finished before it got more, in that order.
    """

    study: Study
    out: Path
    runs: tuple[Run, ...]
    facts: dict[str, Facts]
    sessions: tuple[dict[str, str], ...]
    command: str
    threads: int
    begun: tuple[int, ...] = ()

    @property
    def growth(self) -> str:
        """A word on seeds that came later: who looks at a result before deciding on more says so.

        Empty where all were settled beforehand.
        """
        if not self.begun:
            return ""
        return f"; finished with {' and then with '.join(map(str, self.begun))} before more came"

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
        wanted = {key for unit in units(study) for key in unit.keys}
        missing = wanted - kept
        if missing:
            raise ZeromeanError(
                f"{out} with {len(wanted) - len(missing)} of {len(wanted)} runs",
                "a finished study",
                f"finish it: {store.facts['command']}",
            )
        return Results(
            study=study,
            out=out,
            runs=tuple(run for run in store.runs() if run.key in wanted),
            facts=decode_facts(store.facts["tasks"]),
            sessions=tuple(store.sessions()),
            command=store.facts["command"],
            threads=int(store.facts["threads"]),
            begun=tuple(json.loads(store.facts.get(BEGUN, "[]"))),
        )


def kept(study: Study, out: Path) -> tuple[int, int]:
    """How many runs the folder holds, and how many the study has."""
    wanted = sum(len(unit.keys) for unit in units(study))
    return wanted - len(missing(study, out)), wanted


def missing(study: Study, out: Path) -> list[Key]:
    """The runs that the folder, which need not exist, does not hold yet."""
    wanted = [key for unit in units(study) for key in unit.keys]
    folder = Folder(out)
    if not folder.holds_study:
        return wanted
    with Store(folder.database) as store:
        held = store.keys()
    return [key for key in wanted if key not in held]

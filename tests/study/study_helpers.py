"""Helpers of several tests of studies."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from zeromean.study import Study
from zeromean.study.engine.results import Results
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.records import Candidate, Epoch, Key
from zeromean.study.tasks.interface import Job
from zeromean.study.tasks.load import load_problem
from zeromean.study.tasks.problem import Problem
from zeromean.study.tasks.training import Training, TrainingTask

Records = dict[Key, list[tuple[float, ...]]]


def with_task(study: Study, **changes: Any) -> Study:
    """Return the study with changes to its one task; keys of the study change the study."""
    own = {name: changes.pop(name) for name in [*changes] if name in Study.__struct_fields__}
    return replace(study, tasks=(replace(study.tasks[0], **changes),), **own)


def records(results: Results) -> Records:
    """Return everything but the seconds."""
    return {
        run.key: [
            (run.train_score or -1, run.test_loss or -1, run.test_score or -1),
            *((one.number, *one.metrics.values()) for one in run.epochs),
        ]
        for run in results.runs
    }


def start(
    study: Study,
    method: str = "plain",
    seed: int = 0,
    lr: float = 0.05,
    problem: Problem | None = None,
) -> Training:
    """Begin a run of the study's one task with its first optimizer; the method may be any."""
    from zeromean.study.spec import presets

    (spec,), optimizer = study.tasks, study.optimizers[0]
    task = TrainingTask(study, spec, problem or load_problem(study, spec))
    key = Key(spec.label, optimizer.label, method, seed)
    return Training(
        task, Job(key, Candidate(lr), presets.method(method), optimizer, study.epochs(key))
    )


def train(training: Training) -> list[Epoch]:
    """Train a run to its end."""
    while not training.ended:
        training.advance()
    return training.epochs


class PowerCut(Watcher):
    """Fails at the given epoch, counted from 0."""

    def __init__(self, epoch: int) -> None:
        self.left = epoch

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("power cut")

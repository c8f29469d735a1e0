"""What is known of a study's tasks once they were loaded, and kept beside its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zeromean.errors import ZeromeanError
from zeromean.study.engine.stacked import fits
from zeromean.study.methods import Method
from zeromean.study.problem import Problem
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

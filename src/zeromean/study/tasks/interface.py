"""The interface between the engine and a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from zeromean.study.spec.method import Method
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.optimizer import Optimizer
from zeromean.study.spec.records import Candidate, Epoch, Key, Run


class TaskInfo(msgspec.Struct, frozen=True):
    """Facts of a loaded task, which the database keeps.

    Args:
        description: One line on the data, or on the program.
        split: One line on the test set.
        preprocessing: One line on the preprocessing of the networks' inputs.
        watched: "test" or "validation", the examples that are scored after each epoch.
        metric: Metric of ``score``.
        steps: Number of optimizer steps per epoch; 0 if it is unknown.
        fingerprint: A digest of everything that must not change while the study is under way, such
            as the examples.
        tune_metric: Metric of ``score`` in tuning, if it is another one.
    """

    description: str
    split: str
    preprocessing: str
    watched: str
    metric: Metric
    steps: int
    fingerprint: str
    tune_metric: Metric | None = None

    @property
    def tuning_metric(self) -> Metric:
        """The metric of ``score`` in tuning."""
        return self.tune_metric or self.metric


class Job(NamedTuple):
    """One run to be trained.

    Args:
        key: Identity of the run.
        candidate: Learning rate of the run, and the other tuned settings.
        method: The method of the key.
        optimizer: The optimizer of the key.
        epochs: Number of epochs.
        folder: Folder for the files of the run; not made yet.
    """

    key: Key
    candidate: Candidate
    method: Method
    optimizer: Optimizer
    epochs: int
    folder: Path = Path()


class Progress(NamedTuple):
    """A report of a run: one per epoch, and one at its end.

    Args:
        epoch: The record of the epoch that ended, or None.
        state: State to continue the run from, with tensors on the CPU or any device, valid until
            the next report is requested; None at the end, and for runs that cannot be continued.
        run: Record of the whole run at its end, before that None.
    """

    epoch: Epoch | None = None
    state: dict[str, Any] | None = None
    run: Run | None = None


class Task(Protocol):
    """A loaded task. The process that trains it makes it."""

    @property
    def info(self) -> TaskInfo:
        """Facts for the report and the database."""

    def check(self, methods: Sequence[Method], optimizers: Sequence[Optimizer]) -> None:
        """Check before any training that task, methods and optimizers fit together.

        Raises:
            ZeromeanError: They do not fit together.
        """

    def start(self, job: Job, state: dict[str, Any] | None = None) -> Iterator[Progress]:
        """Train one run.

        The reports of several runs may be requested in turns. A run depends on its job alone: not
        on other runs, nor on interruptions.

        Args:
            job: The run.
            state: The last state that it reported, to continue from; None to begin.

        Raises:
            ZeromeanError: No run of the task can be trained. A run
                that fails on its own ends with a :class:`Run` that has a ``failure``.
        """

"""The records of a study: the key of a run, its metrics after each epoch, and its outcome."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

# The trial of a run that belongs to the comparison itself, not to tuning.
FINAL = -1


class Key(NamedTuple):
    """The identity of a run within its study.

    Args:
        task: Label of the task.
        optimizer: Label of the optimizer.
        method: Label of the method.
        seed: Seed of the initial weights and of the batches.
        trial: Number of the tuning trial that the run belongs to, or ``FINAL``.
    """

    task: str
    optimizer: str
    method: str
    seed: int
    trial: int = FINAL


class Candidate(NamedTuple):
    """The values that tuning chooses.

    Args:
        lr: Peak learning rate.
        weight_decay: Weight decay, or None for the optimizer's.
        values: Values of a program's placeholders, by name, as sorted pairs.
    """

    lr: float
    weight_decay: float | None = None
    values: tuple[tuple[str, float], ...] = ()


class RunStatus(StrEnum):
    """The status of a run that ended."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Epoch:
    """The metrics after one pass over the training examples, or at one point of a curve.

    Args:
        number: Number of the epoch, from 1.
        metrics: Numbers by name. ``score`` is the task's metric on the watched examples (the test
            set, or the validation set in a tuned study), such as an accuracy from 0 to 1. Training
            also records ``loss`` on the watched examples, ``train_loss`` and ``train_score`` over
            the epoch's batches, ``learning_rate`` at the epoch's first step, and ``top5_accuracy``
            if there are more than five classes.
        seconds: Wall-clock time of the training steps, evaluation excluded.
    """

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def get(self, name: str) -> float:
        """Return a metric, or nan if it was not recorded."""
        return self.metrics.get(name, math.nan)

    @property
    def score(self) -> float:
        """The task's metric on the watched examples."""
        return self.get("score")

    @property
    def loss(self) -> float:
        """Mean loss on the watched examples."""
        return self.get("loss")

    @property
    def train_loss(self) -> float:
        """Mean loss over the epoch's batches."""
        return self.get("train_loss")

    @property
    def diverged(self) -> bool:
        """Whether a recorded loss, or the score, is not finite."""
        return any(
            not math.isfinite(self.metrics[name])
            for name in ("train_loss", "loss", "score")
            if name in self.metrics
        )


# Hashes, as numbers, of the weights with which a program began and of its first gradient.
START_WEIGHTS, START_GRADIENT = "start_weights", "start_gradient"


@dataclass(frozen=True)
class Run:
    """A run that ended.

    Args:
        key: Its identity.
        candidate: Its learning rate, and whatever else was tuned.
        epochs: Its records.
        train_score: The metric on the training examples at the end; None for a trial or a program.
        test_loss, test_score: Loss and metric on the test examples at the end; None for a trial.
        failure: The reason why a program failed, or None.
    """

    key: Key
    candidate: Candidate
    epochs: tuple[Epoch, ...]
    train_score: float | None = None
    test_loss: float | None = None
    test_score: float | None = None
    failure: str | None = None

    @property
    def status(self) -> RunStatus:
        """The status of the run."""
        if self.failure is not None:
            return RunStatus.FAILED
        ends = [end for end in (self.test_loss, self.test_score) if end is not None]
        unscored = self.key.trial == FINAL and self.test_score is None
        broken = not all(map(math.isfinite, ends))
        if broken or unscored or (self.epochs and self.epochs[-1].diverged):
            return RunStatus.DIVERGED
        return RunStatus.FINISHED

    @property
    def diverged(self) -> bool:
        """Whether the run has no usable score, because it diverged or failed."""
        return self.status is not RunStatus.FINISHED

    @property
    def start_weights(self) -> float | None:
        """Hash of the weights with which a program began, or None if it is unknown."""
        return self.epochs[-1].metrics.get(START_WEIGHTS) if self.epochs else None

    @property
    def origin(self) -> tuple[object, ...]:
        """What two runs of a program have in common if both began with the same random numbers.

        That is their first step. Rounding that is not reproducible may make later ones differ.
        """
        weights = self.start_weights
        gradient = self.epochs[-1].metrics.get(START_GRADIENT) if self.epochs else None
        if weights is not None and gradient is not None:
            return (weights, gradient)
        return (weights, *(epoch.score for epoch in self.epochs))

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, which one disturbed epoch does not change."""
        return statistics.median([epoch.seconds for epoch in self.epochs] or [math.nan])


def number_text(value: float) -> str:
    """Return a number as users write it on a command line: 64 and not 64.0.

    Example:
        >>> number_text(64.0), number_text(0.03)
        ('64', '0.03')
    """
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)

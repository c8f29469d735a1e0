"""The records of a study: what a run is, and what is known of it after each epoch."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple

# The trial of a run that belongs to the comparison itself, not to tuning.
FINAL = -1


class Key(NamedTuple):
    """Which run of a study is meant.

    Args:
        task: Label of the task.
        optimizer: Name of the optimizer.
        method: Name of the method.
        seed: Of the initial weights and of the batches.
        trial: Number of the tuning trial that it belongs to, or ``FINAL``.
    """

    task: str
    optimizer: str
    method: str
    seed: int
    trial: int = FINAL


class Candidate(NamedTuple):
    """What tuning chooses.

    Args:
        lr: Peak learning rate.
        weight_decay: Or None for the optimizer's customary one.
    """

    lr: float
    weight_decay: float | None = None


@dataclass(frozen=True)
class Epoch:
    """What is known after one pass over the training examples.

    Args:
        number: From 1.
        train_loss: Mean over the epoch's batches.
        loss: Mean over the examples that are watched: the test set, or the validation set where
            something is tuned.
        score: The task's metric on the same examples, such as accuracy from 0 to 1.
        seconds: Wall-clock time of the training steps, evaluation excluded.
    """

    number: int
    train_loss: float
    loss: float
    score: float
    seconds: float

    @property
    def diverged(self) -> bool:
        return not (math.isfinite(self.train_loss) and math.isfinite(self.loss))


@dataclass(frozen=True)
class Run:
    """A run that came to its end, by its last epoch or because it diverged.

    Args:
        key: Which one.
        candidate: The learning rate, and what else was tuned.
        epochs: Its records.
        train_score: The metric on the training examples at the end; None of a trial.
        test_loss, test_score: On the test examples at the end; None of a trial, which never sees
            them.
    """

    key: Key
    candidate: Candidate
    epochs: tuple[Epoch, ...]
    train_score: float | None = None
    test_loss: float | None = None
    test_score: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss is no finite number: of the last epoch, or on the test examples."""
        if self.epochs[-1].diverged:
            return True
        if self.key.trial != FINAL:
            return False
        # The database has none for what is not a number.
        return self.test_loss is None or not math.isfinite(self.test_loss)

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, so that one disturbed epoch does not count."""
        return statistics.median(epoch.seconds for epoch in self.epochs)

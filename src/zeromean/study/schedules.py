"""How the learning rate goes from its peak: torch's schedulers, by name and number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

from zeromean.errors import ZeromeanError

# From the optimizer, the steps of an epoch and the epochs of the run; every scheduler is then told
# of each step.
Make = Callable[[Optimizer, int, int], LRScheduler]


@dataclass(frozen=True)
class Schedule:
    """The learning rate's way, which every run of a task goes.

    Args:
        note: What it does, for reports.
        make: The scheduler of a run.
        least_epochs, least_steps: Of a run in which every change that is named acts, or the first
            of those that are repeated.

    Example:
        >>> Schedule.parse("drops=50,80").note
        'times 0.1 after epochs 50, 80'
    """

    note: str
    make: Make
    least_epochs: int = 1
    least_steps: int = 1

    def fits(self, epochs: int, steps: int) -> bool:
        """Whether it acts in a run of so many epochs of so many steps each."""
        return epochs >= self.least_epochs and epochs * steps >= self.least_steps

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule of that name.

        Raises:
            ZeromeanError: It is unknown, or its number cannot be.
        """
        name, equals, number = text.partition("=")
        if name in PLAIN and not equals:
            return PLAIN[name]
        if name in NUMBERED and (schedule := NUMBERED[name](number)) is not None:
            return schedule
        raise ZeromeanError(f"schedule {text!r}", WANTED, "name one of these schedules")


def _cosine(optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=steps * epochs)


def _constant(optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0)


def _every(text: str) -> Schedule | None:
    count = _whole(text)

    def make(optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        return StepLR(optimizer, count * steps, gamma=0.1)

    return Schedule(f"times 0.1 after every {count} epochs", make, count + 1) if count else None


def _drops(text: str) -> Schedule | None:
    places = [_whole(one) for one in text.split(",")]
    if not all(places) or places != sorted(set(places)):
        return None

    def make(optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        return MultiStepLR(optimizer, [steps * place for place in places], gamma=0.1)

    return Schedule(f"times 0.1 after epochs {', '.join(map(str, places))}", make, places[-1] + 1)


def _halve(text: str) -> Schedule | None:
    count = _whole(text)

    def make(optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        return StepLR(optimizer, count, gamma=0.5)

    if not count:
        return None
    return Schedule(f"halved after every {count} steps", make, least_steps=count + 1)


def _exponential(text: str) -> Schedule | None:
    try:
        end = float(text)
    except ValueError:
        return None
    if not 0 < end < 1:
        return None

    def make(optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        falls = math.ceil(epochs / 2) - 1
        return StepLR(optimizer, 2 * steps, gamma=end ** (1 / max(1, falls)))  # none of a trial

    note = f"exponentially, a step each two epochs, to {end:g} of itself for the last of them"
    return Schedule(note, make, least_epochs=3)


def _whole(text: str) -> int:
    """A whole number above 0, or 0 for what is none, or more than any study takes."""
    return int(text) if text.strip().isdecimal() and len(text) < 10 else 0


PLAIN = {
    "cosine": Schedule("cosine to 0 by step", _cosine),
    "constant": Schedule("constant", _constant),
}
# From what follows the equals sign; None where it cannot be.
NUMBERED: dict[str, Callable[[str], Schedule | None]] = {
    "every": _every,
    "drops": _drops,
    "halve": _halve,
    "exponential": _exponential,
}
WANTED = (
    "cosine, constant, every=EPOCHS, drops=EPOCH,EPOCH,..., halve=STEPS or exponential=SHARE"
    " (whole numbers above 0, rising; a share between 0 and 1)"
)

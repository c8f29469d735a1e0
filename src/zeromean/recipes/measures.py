"""What is read off a run to be compared with published numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zeromean.study.spec.metric import format_number
from zeromean.study.spec.records import Run


@dataclass(frozen=True)
class Measure:
    """A number of a finished run.

    Args:
        name: Of the number.
        unit: After a comma; may be empty.
        digits: Shown after the point.
        of: From the run, which did not diverge, to the number.
    """

    name: str
    unit: str
    digits: int
    of: Callable[[Run], float]

    @property
    def label(self) -> str:
        """With the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def number(self, value: float) -> str:
        return format_number(value, f".{self.digits}f")

    def difference(self, value: float) -> str:
        """With its sign."""
        return format_number(value, f"+.{self.digits}f")


def _score(run: Run) -> float:
    assert run.test_score is not None  # of a run that ended
    return run.test_score


def _loss(run: Run) -> float:
    assert run.test_loss is not None  # of a run that ended
    return run.test_loss


MEASURES = {
    "error": Measure("test error", "%", 2, lambda run: 100 * (1 - _score(run))),
    "accuracy": Measure("test accuracy", "%", 2, lambda run: 100 * _score(run)),
    "loss": Measure("test loss", "", 4, _loss),
    "time": Measure(
        "execution time", "s", 2, lambda run: sum(epoch.seconds for epoch in run.epochs)
    ),
}

"""The numbers of a run that are compared with published ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from zeromean.study.spec.metric import format_number
from zeromean.study.spec.records import Run


@dataclass(frozen=True)
class RunMetric:
    """A number of a finished run.

    Args:
        label: Name with its unit, for headings.
        digits: Digits after the point.
        of: Function from a run that finished to the number.
    """

    label: str
    digits: int
    of: Callable[[Run], float]

    def number(self, value: float) -> str:
        """Format a value."""
        return format_number(value, f".{self.digits}f")

    def difference(self, value: float) -> str:
        """Format a difference with its sign."""
        return format_number(value, f"+.{self.digits}f")


def _known(value: float | None) -> float:
    return math.nan if value is None else value


METRICS = {
    "error": RunMetric("test error, %", 2, lambda run: 100 * (1 - _known(run.test_score))),
    "accuracy": RunMetric("test accuracy, %", 2, lambda run: 100 * _known(run.test_score)),
    "loss": RunMetric("test loss", 4, lambda run: _known(run.test_loss)),
    "time": RunMetric("training time, s", 2, lambda run: sum(one.seconds for one in run.epochs)),
}

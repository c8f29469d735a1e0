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

    def average(self, mean: float, deviation: float | None) -> str:
        """Format a mean, with its standard deviation unless that is None."""
        around = "" if deviation is None else f" ± {self.number(deviation)}"
        return f"{self.number(mean)}{around}"


def unfinished(runs: int, seeds: int) -> str:
    """Return how many runs diverged or failed, in words; empty if all finished."""
    return f"{seeds - runs} of {seeds} did not finish" if runs < seeds else ""


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _reported(name: str) -> Callable[[Run], float]:
    """Return a function from a run to the last value of a metric that its program reported."""
    # The study's own metric is not recorded by its name.
    return lambda run: run.epochs[-1].metrics.get(name, _known(run.test_score))


def _as_reported(name: str, label: str, digits: int = 1) -> RunMetric:
    return RunMetric(label, digits, _reported(name))


# Networks that zeromean trains are scored from 0 to 1; programs report percent. Top-5 accuracy is
# not recorded with up to five classes, where it is 1.
METRICS = {
    "error": RunMetric("test error, %", 2, lambda run: 100 * (1 - _known(run.test_score))),
    "accuracy": RunMetric("test accuracy, %", 2, lambda run: 100 * _known(run.test_score)),
    "loss": RunMetric("test loss", 4, lambda run: _known(run.test_loss)),
    "error_top5": RunMetric(
        "top-5 test error, %",
        2,
        lambda run: 100 * (1 - run.epochs[-1].metrics.get("top5_accuracy", 1.0)),
    ),
    "time": RunMetric("training time, s", 2, lambda run: sum(one.seconds for one in run.epochs)),
    "top1": _as_reported("top1", "top-1 test accuracy, %", 2),
    "top5": _as_reported("top5", "top-5 test accuracy, %", 2),
    "top1_error": RunMetric("top-1 test error, %", 2, lambda run: 100 - _reported("top1")(run)),
    "top5_error": RunMetric("top-5 test error, %", 2, lambda run: 100 - _reported("top5")(run)),
    "AP": _as_reported("AP", "box AP, %"),
    "AP50": _as_reported("AP50", "box AP50, %"),
    "AP75": _as_reported("AP75", "box AP75, %"),
    "mask_AP": _as_reported("mask_AP", "mask AP, %"),
    "mask_AP50": _as_reported("mask_AP50", "mask AP50, %"),
    "mask_AP75": _as_reported("mask_AP75", "mask AP75, %"),
    "mAP": _as_reported("mAP", "mAP, %"),
    "rank1": _as_reported("rank1", "rank 1, %"),
    "return": _as_reported("return", "mean return of greedy episodes"),
}

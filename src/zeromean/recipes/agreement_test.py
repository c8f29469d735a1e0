"""Test whether measured numbers agree with a published one, given the noise of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from zeromean.recipes.published import Published
from zeromean.study.report.statistics import CONFIDENCE, spread


@dataclass(frozen=True)
class Agreement:
    """Measured minus published mean.

    Args:
        difference: Difference of the means.
        interval: Confidence interval of the difference; None for a single run, or if the runs have
            no noise or a number is nan.
    """

    difference: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """``agrees``, ``higher`` or ``lower``; empty without an interval."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return "agrees" if low <= 0 <= high else "higher" if low > 0 else "lower"


def agreement(values: Sequence[float], published: Published, repeats: int) -> Agreement:
    """Compare means by Welch's interval, in which both sides have their own noise.

    A published number without a deviation is taken to be as noisy as the measured one.

    Args:
        values: Measured numbers, one per run; at least one.
        published: Published mean.
        repeats: Number of published runs.

    Example:
        >>> found = agreement([4.0, 5.0, 6.0], Published(5.5, 0.5), repeats=10)
        >>> found.difference, found.verdict
        (-0.5, 'agrees')
    """
    measured = spread(values)
    difference = measured.mean - published.value
    if not measured.deviation or math.isnan(measured.deviation):
        return Agreement(difference, None)
    own = measured.deviation**2 / len(values)
    if published.deviation is None or repeats < 2:
        theirs, freedom = measured.deviation**2 / repeats, float(len(values) - 1)
    else:
        theirs = published.deviation**2 / repeats
        freedom = (own + theirs) ** 2 / (own**2 / (len(values) - 1) + theirs**2 / (repeats - 1))
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(own + theirs)
    return Agreement(difference, (difference - margin, difference + margin))

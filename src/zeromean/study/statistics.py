"""Paired statistics of two methods over the same seeds; pure functions of numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 0.05
# Of the bootstrap, so that the same results give the same interval.
RESAMPLING_SEED = 0


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; no deviation (None) from a single value."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation (n - 1 in the denominator) of at least one value.

    Example:
        >>> spread([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951)
    """
    return Spread(
        mean=float(np.mean(values)),
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


@dataclass(frozen=True)
class Paired:
    """What the differences of paired values tell.

    Args:
        differences: Treated minus control, one a pair.
        mean: Of the differences.
        interval: Of the mean, BCa bootstrap; None where it cannot be computed: fewer than two
            pairs, or differences that are all the same.
        p_value: Two-sided, from flipping the signs of the differences; None below two pairs.
    """

    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that so many pairs can give: two of the 2^n sign patterns."""
        return 2.0 ** (1 - len(self.differences))


def paired(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Compares paired values.

    Args:
        treated: One value a pair.
        control: The values they are compared with, in the same order; at least one.

    Example:
        >>> result = paired([0.98, 0.97, 0.99, 0.98], [0.95, 0.96, 0.95, 0.97])
        >>> round(result.mean, 4), result.p_value
        (0.0225, 0.125)
    """
    differences = np.subtract(treated, control)
    if len(differences) < 2:
        return Paired(tuple(differences.tolist()), float(differences.mean()), None, None)
    test = stats.permutation_test(
        (differences,), _mean, permutation_type="samples", rng=RESAMPLING_SEED
    )
    return Paired(
        differences=tuple(differences.tolist()),
        mean=float(differences.mean()),
        interval=_interval(differences),
        p_value=float(test.pvalue),
    )


def _mean(differences: np.ndarray, axis: int) -> np.ndarray:
    """The mean, rounded far below one test image: sign patterns that tie must tie here too."""
    mean: np.ndarray = np.mean(differences, axis=axis).round(12)
    return mean


def _interval(differences: np.ndarray) -> tuple[float, float] | None:
    """None where the bootstrap degenerates."""
    if np.ptp(differences) < 1e-12:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        low, high = stats.bootstrap(
            (differences,),
            np.mean,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=RESAMPLING_SEED,
        ).confidence_interval
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None

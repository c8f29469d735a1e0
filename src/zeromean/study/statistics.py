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
POWER = 0.8
# All resampled means lie between the smallest and the largest difference, which hold the centre of
# a symmetric distribution in 1 - 2^(1 - n) of all cases: 88 % with four pairs, 94 % with five.
FEWEST_FOR_INTERVAL = 5
# Of the bootstrap, so that the same results give the same interval.
RESAMPLING_SEED = 0
# The widened level reaches far into the tails, where fewer would be noise.
RESAMPLES = 49_999


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
        interval: Of the mean, BCa bootstrap, made wide enough for few pairs; None where it would
            mean nothing: fewer than five pairs, or differences that are all the same.
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
    size = float(np.abs([treated, control]).max()) or 1.0
    test = stats.permutation_test(
        # In the size of the scores, whose rounding errors are in them, for how means are rounded.
        (differences / size,),
        _mean,
        permutation_type="samples",
        rng=RESAMPLING_SEED,
    )
    return Paired(
        differences=tuple(differences.tolist()),
        mean=float(differences.mean()),
        interval=interval_of_mean(differences, size),
        p_value=float(test.pvalue),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for how many there are, so that one false alarm among all stays rare.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    from statsmodels.stats.multitest import multipletests  # slow to import

    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, alpha=LEVEL, method="holm")[1]]


def seeds_needed(deviation: float, gain: float) -> int:
    """How many paired seeds show a gain four times out of five.

    Args:
        deviation: Sample standard deviation of the paired differences, as it was measured.
        gain: The true mean difference that is to be seen, above 0, in the same unit.

    Returns:
        The number at which a two-sided paired t-test at the 5 % level has a power of 0.8, and at
        least so many that a sign-flip test can reach that level at all.

    Example:
        >>> seeds_needed(deviation=1.0, gain=1.0)
        10
    """
    from statsmodels.stats.power import TTestPower  # slow to import

    # Six pairs have 64 sign patterns, two of which are the most extreme: 2/64 is below 5 %.
    least = math.ceil(1 - math.log2(LEVEL))
    if gain / max(deviation, 1e-300) > 100:
        return least
    if gain / deviation < 1e-3:  # where Student's t is the normal distribution
        deviations = float(stats.norm.isf(LEVEL / 2) + stats.norm.isf(1 - POWER))
        return math.ceil((deviations * deviation / gain) ** 2)
    found = TTestPower().solve_power(effect_size=gain / deviation, power=POWER, alpha=LEVEL)
    return max(least, math.ceil(float(np.squeeze(found))))


def _mean(differences: np.ndarray, axis: int) -> np.ndarray:
    """The mean, rounded far below one image: sign patterns that tie must tie here too."""
    mean: np.ndarray = np.mean(differences, axis=axis).round(12)
    return mean


def interval_of_mean(
    values: Sequence[float] | np.ndarray, size: float | None = None
) -> tuple[float, float] | None:
    """BCa bootstrap of the mean; None from fewer than five values, or where it degenerates.

    A bootstrap of n values is too narrow by sqrt((n - 1) / n) and knows no t-distribution. Its
    level is therefore raised to where the percentile interval of normal values is Student's
    (Hesterberg, What Teachers Should Know About the Bootstrap, 2015).

    Args:
        values: Any number.
        size: Of what they are differences of, beside which they may be all the same; by default
            the largest of them.

    Example:
        >>> interval_of_mean([1.0, 2.0])
        >>> low, high = interval_of_mean([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> low < 3.0 < high
        True
    """
    differences = np.asarray(values, dtype=float)
    size = size or float(np.abs(differences).max(initial=0.0)) or 1.0
    count = len(differences)
    if count < FEWEST_FOR_INTERVAL or np.ptp(differences) < 1e-12 * size:
        return None
    student = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    level = 1 - 2 * stats.norm.sf(student * math.sqrt(count / (count - 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        low, high = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=level,
            method="BCa",
            rng=RESAMPLING_SEED,
        ).confidence_interval
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None

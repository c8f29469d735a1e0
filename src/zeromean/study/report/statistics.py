"""Paired statistics of two methods over the same seeds: pure functions of numbers."""

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
# All resampled means lie between the smallest and the largest difference, which enclose the center
# of a symmetric distribution with probability 1 - 2^(1 - n): 88% with four pairs, 94% with five.
MIN_PAIRS_FOR_INTERVAL = 5
# A fixed bootstrap seed gives the same interval for the same results.
RESAMPLING_SEED = 0
# The quantiles at the widened level are far in the tails, where fewer resamples are too noisy.
RESAMPLES = 49_999
# The test takes all sign patterns of up to 15 pairs, and draws as many at random of more pairs.
SIGN_PATTERNS = 2**15


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the deviation of a single value is None."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Compute the mean and the standard deviation (n - 1 in the denominator) of at least one value.

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
    """Statistics of paired differences.

    Args:
        differences: Treated minus control, one value per pair.
        mean: Mean of the differences.
        interval: BCa bootstrap interval of the mean, widened for few pairs; None with fewer than
            five pairs or if all differences are equal.
        p_value: Two-sided p-value of the sign-flip test; None below two pairs.
    """

    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that this number of pairs can give: that of two sign patterns."""
        # Of drawn patterns, the test counts the measured one in addition.
        return max(2.0 ** (1 - len(self.differences)), 2 / (SIGN_PATTERNS + 1))


def paired(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Compare paired values by the mean of their differences.

    Args:
        treated: Values of the method, one per pair; at least one.
        control: Values of the baseline in the same order.

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
        # Scaled by the scores, because their rounding errors are those of the differences.
        (differences / size,),
        _rounded_mean,
        permutation_type="samples",
        n_resamples=SIGN_PATTERNS,
        rng=RESAMPLING_SEED,
    )
    return Paired(
        differences=tuple(differences.tolist()),
        mean=float(differences.mean()),
        interval=interval_of_mean(differences, size),
        p_value=float(test.pvalue),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons by Holm's step-down method.

    It bounds the family-wise error rate, the probability of at least one false positive.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    # Not statsmodels' multipletests, which calls gc.collect() and so takes longer than a report.
    count = len(p_values)
    order = np.argsort(p_values)
    corrected = np.empty(count)
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(count, 0, -1))
    return corrected.clip(max=1.0).tolist()  # type: ignore[no-any-return]


def min_seeds(comparisons: int) -> int:
    """Return the fewest seeds with which one of several comparisons can show a difference.

    Example:
        >>> min_seeds(1), min_seeds(16)
        (6, 10)
    """
    return math.ceil(1 - math.log2(LEVEL / comparisons))


def seeds_needed(deviation: float, effect: float, comparisons: int = 1) -> int:
    """Return the number of paired seeds that detects an effect in four studies out of five.

    Args:
        deviation: Sample standard deviation of the measured differences.
        effect: True mean difference to detect, above 0, in the same unit.
        comparisons: Number of comparisons that the p-value is corrected for.

    Returns:
        The number of seeds at which a two-sided paired t-test has a power of 0.8, but no less than
        a sign-flip test of normal differences needs for that power. Both are at the 5% level
        divided by the number of comparisons.

    Example:
        >>> seeds_needed(deviation=1.0, effect=1.0)
        10
    """
    from statsmodels.stats.power import TTestPower  # slow to import

    least, level = min_seeds(comparisons), LEVEL / comparisons
    ratio = effect / max(deviation, 1e-300)
    # With the fewest seeds that can show a difference, all of them have to agree.
    if stats.norm.cdf(ratio) ** least < POWER:
        least += 1
    # Twice the noise needs fewer than `least`; there the solver may not converge.
    if ratio > 2:
        return least
    if ratio < 1e-3:  # so many seeds that Student's t is normal
        deviations = float(stats.norm.isf(level / 2) + stats.norm.isf(1 - POWER))
        return math.ceil((deviations / ratio) ** 2)
    found = TTestPower().solve_power(effect_size=ratio, power=POWER, alpha=level)
    return max(least, math.ceil(float(np.squeeze(found))))


def _rounded_mean(differences: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean, rounded far below the effect of one image so that equal means stay equal."""
    mean: np.ndarray = np.mean(differences, axis=axis).round(12)
    return mean


def interval_of_mean(
    values: Sequence[float] | np.ndarray, size: float | None = None
) -> tuple[float, float] | None:
    """Compute the BCa bootstrap interval of a mean; None below five values or if all are equal.

    A bootstrap of n values is too narrow by sqrt((n - 1) / n) and ignores the t-distribution. The
    level is therefore raised to the one at which the percentile interval of normal values is
    Student's (Hesterberg, What Teachers Should Know About the Bootstrap, 2015).

    Args:
        values: Values to average.
        size: Largest magnitude of the scores whose differences the values are. Values count as
            equal within the rounding errors of that magnitude (default: that of the values).

    Example:
        >>> interval_of_mean([1.0, 2.0])
        >>> low, high = interval_of_mean([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> low < 3.0 < high
        True
    """
    sample = np.asarray(values, dtype=float)
    size = size or float(np.abs(sample).max(initial=0.0)) or 1.0
    count = len(sample)
    sample = sample / size  # so that rounding errors and squares do not depend on the unit
    if count < MIN_PAIRS_FOR_INTERVAL or np.ptp(sample) < 1e-12:
        return None
    student = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    level = 1 - 2 * stats.norm.sf(student * math.sqrt(count / (count - 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        low, high = stats.bootstrap(
            (sample,),
            _rounded_mean,
            n_resamples=RESAMPLES,
            confidence_level=level,
            method="BCa",
            rng=RESAMPLING_SEED,
        ).confidence_interval
    low, high = low * size, high * size
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None

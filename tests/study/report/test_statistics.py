"""Paired statistics compared with enumeration and theory."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from zeromean.study.report.statistics import Spread, holm, min_seeds, paired, seeds_needed, spread


def test_spread_divides_by_n_minus_one() -> None:
    assert spread([2, 4, 4, 4, 5, 5, 7, 9]) == Spread(5.0, pytest.approx((32 / 7) ** 0.5))
    assert spread([3.0]) == Spread(3.0, None)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=7))
def test_p_value_counts_sign_patterns_at_least_as_extreme(values: list[int]) -> None:
    result = paired(values, [0] * len(values))
    flipped = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    extreme = np.mean([total >= abs(sum(values)) for total in flipped])
    assert result.p_value == pytest.approx(min(1.0, extreme))
    assert result.p_value >= result.smallest_p


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_correction_is_holms(p_values: list[float]) -> None:
    with mock.patch("gc.collect"):  # multipletests calls it each time
        expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected)


def test_nothing_to_correct() -> None:
    assert holm([]) == []


def test_five_pairs_cannot_give_a_p_below_a_sixteenth() -> None:
    result = paired([0.9, 0.8, 0.9, 0.7, 0.8], [0.1, 0.2, 0.05, 0.1, 0.1])
    assert result.p_value == result.smallest_p == 0.0625


def test_interval_equals_the_textbook_one() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1.0, 400)
    result = paired(differences, np.zeros(400))
    error = differences.std(ddof=1) / 20
    expected = (differences.mean() - 1.96 * error, differences.mean() + 1.96 * error)
    assert result.interval == pytest.approx(expected, abs=0.1 * error)


def test_interval_of_skewed_differences_is_bca() -> None:
    """Compare with the formula (Efron 1987) on an independent bootstrap."""
    rng = np.random.default_rng(1)
    differences = rng.exponential(1.0, 15)
    means = rng.choice(differences, (200_000, 15)).mean(1)
    bias = norm.ppf((means < differences.mean()).mean())
    influence = differences - differences.mean()
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    # Widened to the level at which a percentile interval of so few values would be Student's.
    wide = t.ppf(0.975, 14) * (15 / 14) ** 0.5
    shifted = bias + np.array([-wide, wide])
    expected = np.quantile(means, norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    percentile = np.quantile(means, norm.cdf([-wide, wide]))
    tolerance = np.abs(expected - percentile).min() / 3
    assert paired(differences, np.zeros(15)).interval == pytest.approx(expected, abs=tolerance)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
@example([0.0, 0.0, 0.0, 0.0, 1e-162])
def test_swapping_methods_flips_every_sign(values: list[float]) -> None:
    zeros = [0.0] * len(values)
    there, back = paired(values, zeros), paired(zeros, values)
    assert back.mean == pytest.approx(-there.mean)
    assert back.p_value == pytest.approx(there.p_value)
    if there.interval is not None:
        assert there.interval[0] <= there.interval[1]
        assert min(values) - 1e-12 <= there.interval[0]
        assert there.interval[1] <= max(values) + 1e-12


@given(
    st.lists(st.integers(-50, 50), min_size=5, max_size=7, unique=True),
    st.floats(0.001, 1000),
)
def test_unit_does_not_matter(values: list[int], unit: float) -> None:
    """Resampled means that tie in one unit tie in any other."""
    result, other = (
        paired([one * size for one in values], np.zeros(len(values))) for size in (1.0, unit)
    )
    assert other.p_value == result.p_value
    assert np.array(other.interval) / unit == pytest.approx(result.interval)


def test_same_numbers_give_same_interval_and_p_value() -> None:
    """With so many pairs, resampled means and sign patterns are both drawn at random."""
    treated, control = np.random.default_rng(0).normal(0.3, 1.0, (2, 17))
    first = paired(treated, control)
    assert first.interval is not None
    assert paired(treated, control) == first


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.01, 0.125)])
def test_equal_differences_have_no_interval(shift: float, p: float) -> None:
    control = np.array([0.9, 0.8, 0.7, 0.6])
    result = paired(control + shift, control)
    assert result.interval is None
    assert result.p_value == p
    assert result.mean == pytest.approx(shift)


def test_one_pair_has_a_difference_and_no_statistics() -> None:
    result = paired([0.75], [0.5])
    assert (result.mean, result.interval, result.p_value) == (0.25, None, None)


def test_ties_in_images_are_ties_in_accuracies() -> None:
    treated = [808, 827, 811, 804, 806, 839, 809, 807]
    control = [805, 828, 809, 801, 807, 837, 807, 802]
    exact = paired(treated, control).p_value
    assert exact == 0.0546875
    assert paired([n / 899 for n in treated], [n / 899 for n in control]).p_value == exact


def test_unit_of_scores_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(1, 0.1, 8)
    treated = control + rng.normal(1e-3, 1e-4, 8)
    for unit in (1e-12, 1e9):
        scaled = paired(unit * treated, unit * control)
        assert scaled.p_value == paired(treated, control).p_value == 2 / 2**8
        assert scaled.interval is not None


def test_effects_far_below_the_noise_have_a_number_of_seeds() -> None:
    assert seeds_needed(1.0, 0.99e-3) == pytest.approx(
        seeds_needed(1.0, 1.01e-3) * (1.01 / 0.99) ** 2, rel=1e-3
    )
    assert seeds_needed(1.0, 1e-9) > 1e18


@pytest.mark.parametrize("ratio", [1.9, 2.0, 6.0, 8.0, 20.0, 100.0, 1e9])
def test_effects_far_above_the_noise_need_the_fewest_seeds(ratio: float) -> None:
    assert seeds_needed(1.0, ratio) == 6


@pytest.mark.parametrize("comparisons", [1, 2, 6, 16, 100])
def test_seeds_needed_reach_the_corrected_level(comparisons: int) -> None:
    power = TTestPower().power
    for ratio in (0.5, 0.2):
        needed = seeds_needed(1.0, ratio, comparisons)
        level = 0.05 / comparisons
        assert power(ratio, needed - 1, level) < 0.8 <= power(ratio, needed, level)


@pytest.mark.parametrize("pairs", [13, 14, 15, 16, 40])
def test_smallest_p_is_what_equal_signs_give(pairs: int) -> None:
    """With 14 pairs or more it was once 1.6 times as large, or more, than a report said."""
    result = paired(np.arange(pairs) + 1.0, np.zeros(pairs))
    # Patterns that are drawn at random include the measured one now and then.
    assert (
        result.smallest_p <= result.p_value < (1 if pairs < 16 else 8) * 1.001 * result.smallest_p
    )


@pytest.mark.parametrize("comparisons", [1, 2, 16, 100])
def test_seeds_that_all_have_to_agree_do_so_in_four_studies_out_of_five(comparisons: int) -> None:
    """Six seeds were once said to see 1.5 standard deviations, which they do in 66% of studies."""
    least = min_seeds(comparisons)
    limit = norm.ppf(0.8 ** (1 / least))
    needed = [seeds_needed(1.0, limit + off, comparisons) for off in (-0.01, 0.01)]
    assert needed == [least + 1, least]


def test_tied_sign_patterns_tie_despite_rounding() -> None:
    images = np.array([[9003, 9001, 9002, 9007, 9005, 9004], [9000, 9002, 9001, 9004, 9003, 9005]])
    treated, control = images / 10_000
    assert paired(treated.tolist(), control.tolist()).p_value == paired(*images.tolist()).p_value

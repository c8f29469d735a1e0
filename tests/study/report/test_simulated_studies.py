"""Simulated studies with a known effect: intervals cover it, and false alarms are rare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from synthetic import make_results

from zeromean.study.engine.results import Results
from zeromean.study.report import statistics
from zeromean.study.report.statistics import LEVEL, interval_of_mean
from zeromean.study.report.summary import summarize

METHODS = ("gc", "gc-conv", "gc-update", "ws")


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage over many studies does not need a precise interval in each."""
    monkeypatch.setattr(statistics, "RESAMPLES", 2_999)


def simulate(rng: np.random.Generator, out: Path, seeds: int, effect: float) -> Results:
    """Simulate four methods that differ from plain by the effect plus noise of 0.003.

    All methods of a seed share a larger deviation, which pairing removes.
    """
    shared = rng.normal(0.9, 0.02, seeds)
    curves = {"plain": [(0.5, score) for score in shared + rng.normal(0, 0.003, seeds)]}
    for method in METHODS:
        scores = shared + effect + rng.normal(0, 0.003, seeds)
        curves[method] = [(0.5, score) for score in scores]
    return make_results(out, curves)


def at_most(count: int, trials: int, share: float) -> bool:
    """Return whether chance gives more than this count at least once in a thousand times."""
    return bool(binom.sf(count - 1, trials, share) > 1e-3)


@pytest.mark.parametrize("seeds", [6, pytest.param(10, marks=pytest.mark.slow)])
def test_false_alarm_rate_of_a_study_is_within_the_level(
    tmp_path: Path, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 99)  # p-values need no interval
    rng = np.random.default_rng(seeds)
    studies = 12
    alarms = 0
    for _ in range(studies):
        (table,) = summarize(simulate(rng, tmp_path, seeds, effect=0.0))
        alarms += any(one.corrected_p is not None and one.corrected_p <= LEVEL for one in table)
    assert at_most(alarms, studies, LEVEL)


def test_effect_is_found_with_the_number_of_seeds_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 99)
    rng = np.random.default_rng(0)
    deviation = 0.003 * 2**0.5
    seeds = statistics.seeds_needed(deviation, effect=0.005)
    found = [
        one.final.difference is not None and one.final.difference.p_value <= LEVEL  # type: ignore[operator]
        for _ in range(12)
        for (table,) in [summarize(simulate(rng, tmp_path, seeds, effect=0.005))]
        for one in table[1:2]
    ]
    assert np.mean(found) > 0.6  # the power is 0.8


@pytest.mark.parametrize(
    ("seeds", "nominal"),
    # With five seeds no resampled mean can lie beyond the extremes: 1 - 2^-4 at best.
    [(5, 0.92), (8, 0.95), (20, 0.95)],
)
def test_intervals_cover_the_effect(seeds: int, nominal: float) -> None:
    rng = np.random.default_rng(seeds)
    studies = 200
    missed = 0
    for _ in range(studies):
        interval = interval_of_mean(rng.normal(1.0, 2.0, seeds))
        assert interval is not None
        missed += not interval[0] <= 1.0 <= interval[1]
    assert at_most(missed, studies, 1 - nominal)
    assert missed > 0  # an interval that never misses says nothing


def test_intervals_cover_skewed_differences() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        interval = interval_of_mean(rng.exponential(1.0, 20))
        assert interval is not None
        missed += not interval[0] <= 1.0 <= interval[1]
    assert at_most(missed, 200, 0.08)

"""A performance profile: how often a method is within a factor of the fastest one's steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from zeromean.study.engine.results import Results
from zeromean.study.report.drawing import figure, literal, styles, tidy
from zeromean.study.report.summary import Summary

CAPTION = (
    "Share of the comparisons in which a method reached the target within the given multiple of the"
    " steps that the fastest method needed, by medians over the seeds. A missed target is within no"
    " multiple."
)


def ratios(amounts: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Divide each method's amount by the smallest of its comparison; a missed target stays inf.

    Args:
        amounts: Amount, such as epochs, that each method needed to reach the target, inf if it was
            missed; one mapping per comparison.

    Example:
        >>> ratios([{"plain": 20.0, "gc": 10.0}, {"plain": 10.0, "gc": float("inf")}])
        {'plain': [2.0, 1.0], 'gc': [1.0, inf]}

    Reference:
        Dolan and More 2002; Dahl et al., Benchmarking Neural Network Training Algorithms, 2023.
    """
    found: dict[str, list[float]] = {method: [] for method in amounts[0]}
    for one in amounts:
        best = min(one.values())
        for method, amount in one.items():
            found[method].append(amount / best if math.isfinite(amount) else math.inf)
    return found


def share_within(ratio: Sequence[float], factor: float) -> float:
    """Return the share of comparisons in which a method was within the factor of the fastest."""
    return sum(one <= factor for one in ratio) / len(ratio)


def draw(results: Results, tables: list[list[Summary]]) -> Figure:
    """Draw one line per method.

    Args:
        results: Study to draw.
        tables: Summaries of each comparison.
    """
    found = ratios(
        [
            _epochs_to_target(results, comparison.optimizer, summaries)
            for comparison, summaries in zip(results.comparisons, tables, strict=True)
        ]
    )
    finite = [ratio for many in found.values() for ratio in many if math.isfinite(ratio)]
    end = max(2.0, 1.1 * max(finite, default=1.0))
    factors = np.linspace(1, end, 500)
    chart = figure(3.2 + 0.12 * len(found))
    axes = chart.subplots()
    look = styles(results.study.method_labels)
    for method, ratio in found.items():
        shares = [100 * share_within(ratio, factor) for factor in factors]
        axes.step(
            factors,
            shares,
            where="post",
            color=look[method].color,
            linestyle=look[method].line,
            linewidth=1.8,
            label=literal(method),
        )
    axes.set_xlim(1, end)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("Multiple of the fastest method's steps")
    axes.set_ylabel("Comparisons, %")
    chart.legend(loc="outside lower left", ncols=3, frameon=False, fontsize="small")
    tidy(axes)
    return chart


def _epochs_to_target(
    results: Results, optimizer: str, summaries: list[Summary]
) -> dict[str, float]:
    """Return the median epochs of every method, including those that equal another one."""
    needed = {one.method: statistics.median(one.target.epochs) for one in summaries}
    same_as = results.study.distinct_methods(optimizer)
    return {method: needed[same_as[method]] for method in results.study.method_labels}

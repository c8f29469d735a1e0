"""Performance profiles: how often a method is how many times slower than the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from zeromean.study.engine.results import Results
from zeromean.study.report.curves import LETTERS, png, style
from zeromean.study.report.styles import styles
from zeromean.study.summary import Summary

CAPTION = (
    "On how many of the comparisons a method reached the target within so many times the steps of"
    " the method that needed fewest; medians over the seeds, a miss counts as never."
)


def ratios(amounts: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Each method's amount over the smallest of each comparison, infinite where it never got there.

    Args:
        amounts: For each comparison, what each method needed to reach the target.

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
    """The share of comparisons on which a method was within the factor of the best."""
    return sum(one <= factor for one in ratio) / len(ratio)


def draw(results: Results, tables: list[list[Summary]]) -> bytes:
    """The profile as PNG, one line a method.

    Args:
        results: Of the study.
        tables: The summaries of each comparison.
    """
    found = ratios(
        [
            {one.method: statistics.median(one.target.epochs) for one in summaries}
            for summaries in tables
        ]
    )
    finite = [ratio for many in found.values() for ratio in many if math.isfinite(ratio)]
    end = max(2.0, 1.1 * max(finite, default=1.0))
    factors = np.linspace(1, end, 500)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    style_of = styles(results.study.method_labels)
    for method, ratio in found.items():
        shares = [100 * share_within(ratio, factor) for factor in factors]
        own = style_of[method]
        axes.step(
            factors,
            shares,
            where="post",
            color=own.color,
            linestyle=own.line,
            linewidth=1.8,
            label=method,
        )
    axes.set_xlim(1, end)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("Times the steps of the fastest method", fontsize=LETTERS)
    axes.set_ylabel("Comparisons, %", fontsize=LETTERS)
    axes.legend(loc="lower right", frameon=False, fontsize=LETTERS)
    style(axes)
    return png(figure)

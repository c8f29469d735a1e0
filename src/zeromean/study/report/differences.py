"""The picture of paired differences: every seed, the mean, and its interval."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from zeromean.study.engine.results import Comparison
from zeromean.study.report.curves import LETTERS, png, style
from zeromean.study.report.styles import styles
from zeromean.study.spec.method import BASELINE
from zeromean.study.statistics import CONFIDENCE
from zeromean.study.summary import Summary

CAPTION = (
    f"Test scores at the end, each method's difference to {BASELINE}: a mark a seed, a bar the"
    f" mean, a line its {CONFIDENCE:.0%} interval where there are seeds enough for one."
)


def draw(comparison: Comparison, summaries: list[Summary]) -> bytes:
    """The picture as PNG, one row a method; diverged pairs are left out."""
    metric = comparison.metric
    shown = [one for one in summaries if one.method != BASELINE]
    style_of = styles(comparison.methods)
    figure = Figure(figsize=(6.4, 1.1 + 0.55 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=style_of[BASELINE].color, linewidth=1.5)
    for row, summary in enumerate(shown):
        paired, own = summary.final.difference, style_of[summary.method]
        if paired is None:
            continue
        values = metric.scale * np.array(paired.differences)
        # Dots that would hide each other stand a little apart.
        offsets = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, row + offsets, own.marker, color=own.color, alpha=0.5, markersize=5)
        if paired.interval is not None:
            ends = [metric.scale * end for end in paired.interval]
            axes.plot(ends, [row, row], "-", color=own.color, linewidth=2.5)
        axes.plot(
            metric.scale * paired.mean,
            row,
            "|",
            color=own.color,
            markersize=18,
            markeredgewidth=2.5,
        )
    axes.set_yticks(range(len(shown)), [one.method for one in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(f"Difference to {BASELINE}, {metric.difference_unit}", fontsize=LETTERS)
    style(axes, grid="x")
    return png(figure)

"""A forest plot of paired differences: every seed, the mean, and its interval."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from zeromean.study.engine.results import Comparison, Results
from zeromean.study.report.drawing import figure, literal, styles, tidy
from zeromean.study.report.statistics import CONFIDENCE
from zeromean.study.report.summary import Summary
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import with_unit

CAPTION = (
    f"Differences to {BASELINE} of the test scores at the end. Each mark shows a seed, each"
    f" vertical bar a mean, each line its {CONFIDENCE:.0%} interval (none below five seeds)."
)


def draw(results: Results, tables: list[list[Summary]]) -> Figure:
    """Draw one panel per metric with one row per method and comparison.

    Args:
        results: Study to draw.
        tables: Summaries of each comparison, in the order of ``results.comparisons``.
    """
    comparisons = results.comparisons
    rows = [
        (comparison, one)
        for comparison, summaries in zip(comparisons, tables, strict=True)
        for one in summaries
        if one.method != BASELINE
    ]
    metrics = list(dict.fromkeys(one.metric for _, one in rows))
    panels = [[row for row in rows if row[1].metric == metric] for metric in metrics]
    look = styles(results.study.method_labels)
    chart = figure(0.5 + sum(0.75 + 0.42 * len(panel) for panel in panels))
    grid = chart.subplots(len(panels), squeeze=False, height_ratios=[*map(len, panels)])
    for axes, metric, panel in zip(grid[:, 0], metrics, panels, strict=True):
        axes.axvline(0, color=look[BASELINE].color, linewidth=1.5)
        for row, (_, summary) in enumerate(panel):
            paired, style = summary.final.difference, look[summary.method]
            if paired is None:
                continue
            values = metric.scale * np.array(paired.differences)
            # A small vertical offset keeps marks from hiding each other.
            offsets = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(
                values, row + offsets, style.marker, color=style.color, alpha=0.5, markersize=4
            )
            if paired.interval is not None:
                ends = [metric.scale * end for end in paired.interval]
                axes.plot(ends, [row, row], "-", color=style.color, linewidth=2.5)
            mean = metric.scale * paired.mean
            axes.plot(mean, row, "|", color=style.color, markersize=16, markeredgewidth=2.5)
        names = [_label(comparison, one, len(comparisons) > 1) for comparison, one in panel]
        axes.set_yticks(range(len(panel)), names)
        axes.set_ylim(len(panel) - 0.5, -0.5)
        direction = "higher" if metric.higher_is_better else "lower"
        label = with_unit("Difference", metric.difference_unit)
        axes.set_xlabel(f"{label} ({direction} is better)")
        tidy(axes, grid="x")
    return chart


def _label(comparison: Comparison, summary: Summary, several: bool) -> str:
    if not several:
        return literal(summary.method)
    words = f"{comparison.task.label}\n{comparison.optimizer}: {summary.method}"
    lines = (line if len(line) <= 32 else f"{line[:31]}…" for line in words.split("\n"))
    return literal("\n".join(lines))

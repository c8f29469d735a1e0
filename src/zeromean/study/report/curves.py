"""The picture of a comparison: the score by epoch, and the difference to the baseline."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zeromean.study.engine.results import Comparison
from zeromean.study.report.styles import Style, styles
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.records import Run

CAPTION = (
    "Above: the score by epoch. Below: its difference to plain, seed by seed. "
    "Lines are means over the seeds, bands one standard deviation to each side; "
    "the dashed line is a third of the way."
)


# Large enough to be read where the picture is a hand wide.
LETTERS = 12
# Of more names, the legend has a place of its own below: within, it would hide the curves.
MOST_NAMES_WITHIN = 6


def draw(comparison: Comparison) -> bytes:
    """The picture as PNG.

    Args:
        comparison: Its finished runs; diverged ones are drawn dotted, up to where they broke.
    """
    metric, task = comparison.metric, comparison.task
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    baseline = comparison.of(BASELINE)
    style_of = styles(comparison.methods)
    lower.axhline(0, color=style_of[BASELINE].color, linewidth=1.5)

    def shown(run: Run) -> np.ndarray:
        return metric.scale * np.array([epoch.score for epoch in run.epochs])

    for method in comparison.methods:
        runs = comparison.of(method)
        sound = {seed: run for seed, run in runs.items() if not run.diverged}
        if sound:
            scores = np.stack([shown(run) for run in sound.values()])
            _line_and_band(upper, scores, style_of[method], label=method)
        broken = [shown(run) for run in runs.values() if run.diverged]
        _diverged(upper, broken, style_of[method].color, f"{method}, diverged")
        pairs = [seed for seed in sound if not baseline[seed].diverged]
        if pairs and method != BASELINE:
            differences = [shown(runs[seed]) - shown(baseline[seed]) for seed in pairs]
            _line_and_band(lower, np.stack(differences), style_of[method])
    watched = comparison.info.watched.capitalize()
    unit = f", {metric.unit}" if metric.unit else ""
    upper.set_ylabel(f"{watched} {metric.name}{unit}", fontsize=LETTERS)
    lower.set_ylabel(f"Difference to {BASELINE}, {metric.difference_unit}", fontsize=LETTERS)
    lower.set_xlabel("Epoch", fontsize=LETTERS)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, names = upper.get_legend_handles_labels()
    if len(names) > MOST_NAMES_WITHIN:
        figure.set_figheight(6.4 + 0.15 * len(names))
        figure.legend(
            handles, names, loc="outside lower left", ncols=2, frameon=False, fontsize=LETTERS - 2
        )
    elif names:
        upper.legend(loc="best", frameon=False, fontsize=LETTERS)
    for axes in (upper, lower):
        if task.early_epoch < task.epochs:
            axes.axvline(task.early_epoch, color="#999999", linewidth=0.8, linestyle="--")
        style(axes)
    return png(figure)


def style(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """The look that all pictures share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=LETTERS)


def png(figure: Figure) -> bytes:
    """The figure, sharp enough for a page's width."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=175)
    return buffer.getvalue()


def _line_and_band(axes: Axes, values: np.ndarray, own: Style, label: str | None = None) -> None:
    """``values``: a row a seed, a column an epoch."""
    epochs = np.arange(1, values.shape[1] + 1)
    mean = values.mean(0)
    # A single epoch has no line; a marker shows it.
    marker = own.marker if len(epochs) == 1 else None
    axes.plot(epochs, mean, own.line, color=own.color, linewidth=1.8, marker=marker, label=label)
    if len(values) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(
            epochs, mean - deviation, mean + deviation, color=own.color, alpha=0.18, linewidth=0
        )


def _diverged(axes: Axes, scores: list[np.ndarray], color: str, label: str) -> None:
    for number, values in enumerate(scores):
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, ":", color=color, linewidth=1)
        # One entry in the legend for all of them.
        axes.plot(epochs[-1:], values[-1:], "x", color=color, label=label if number == 0 else None)

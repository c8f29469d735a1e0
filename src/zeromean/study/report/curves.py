"""Charts of a comparison by epoch: the score, its difference to the baseline, and the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from zeromean.study.engine.results import Comparison
from zeromean.study.report.drawing import Style, figure, literal, styles, tidy
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import with_unit
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.records import Run

# One row per seed, one column per epoch.
Curves = Mapping[str, np.ndarray]


def draw_scores(comparison: Comparison) -> Figure:
    """Draw the score by epoch and, below, its paired difference to the baseline.

    Runs that diverged are dotted up to their last finite score and take no part in means.
    """
    metric, look = comparison.metric, styles(comparison.study.method_labels)
    chart = figure(5.0)
    upper, lower = chart.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw(upper, _curves(comparison, "score", metric.scale), look)
    for run in comparison.runs:
        if run.diverged:
            scores = metric.scale * _values(run, "score", len(run.epochs))
            epochs, color = 1 + np.flatnonzero(np.isfinite(scores)), look[run.key.method].color
            upper.plot(epochs, scores[epochs - 1], ":", color=color, linewidth=1)
            upper.plot(epochs[-1:], scores[epochs - 1][-1:], "x", color=color)
    lower.axhline(0, color=look[BASELINE].color, linewidth=1.5)
    _draw(lower, _differences(comparison), look)
    program = isinstance(comparison.task, ProgramTask)  # the program decides what it is scored on
    score = metric.name if program else f"{comparison.info.watched.capitalize()} {metric.name}"
    upper.set_ylabel(literal(with_unit(score, metric.unit)))
    lower.set_ylabel(with_unit("Difference", metric.difference_unit))
    _finish(chart, [upper, lower], comparison)
    return chart


def draw_training(comparison: Comparison) -> Figure | None:
    """Draw the training score, the training loss and the learning rate, if they are recorded."""
    metric, look = comparison.metric, styles(comparison.study.method_labels)
    series = {
        "train_score": (with_unit(f"Training {metric.name}", metric.unit), metric.scale),
        "train_loss": ("Training loss", 1.0),
        "learning_rate": ("Learning rate", 1.0),
    }
    panels = {
        label: curves
        for name, (label, scale) in series.items()
        if (curves := _curves(comparison, name, scale))
        and not (name == "train_score" and metric.name == "loss")
    }
    if not panels:
        return None
    chart = figure(0.5 + 1.8 * len(panels))
    axes = list(np.atleast_1d(chart.subplots(len(panels), 1, sharex=True)))
    for one, (label, curves) in zip(axes, panels.items(), strict=True):
        _draw(one, curves, look)
        one.set_ylabel(literal(label))
    _finish(chart, axes, comparison)
    return chart


def _curves(comparison: Comparison, name: str, scale: float) -> dict[str, np.ndarray]:
    """Collect a recorded quantity of the runs that finished, by method; {} if it is missing."""
    found = {
        method: scale * np.array([_values(run, name, comparison.epochs) for run in runs.values()])
        for method in comparison.methods
        if (runs := comparison.finished(method))
    }
    return {method: values for method, values in found.items() if np.isfinite(values).any()}


def _differences(comparison: Comparison) -> dict[str, np.ndarray]:
    baseline, count, found = comparison.finished(BASELINE), comparison.epochs, {}
    for method in comparison.methods:
        pairs = [
            _values(run, "score", count) - _values(baseline[seed], "score", count)
            for seed, run in comparison.finished(method).items()
            if seed in baseline
        ]
        if pairs and method != BASELINE:
            found[method] = comparison.metric.scale * np.array(pairs)
    return found


def _values(run: Run, name: str, count: int) -> np.ndarray:
    """Return a recorded quantity by epoch, with nan for what is infinite or missing."""
    values = np.array([epoch.get(name) for epoch in run.epochs[:count]])
    return np.where(np.isfinite(values), values, np.nan)


def _draw(axes: Axes, curves: Curves, look: Mapping[str, Style]) -> None:
    for method, values in curves.items():
        epochs, style, mean = np.arange(1, values.shape[1] + 1), look[method], values.mean(0)
        # A single epoch has no line, so a marker shows it.
        marker = style.marker if len(epochs) == 1 else None
        # The later of two equal curves is dashed, so that the earlier one shows.
        line = (0, (4, 4)) if coinciding(curves, method) else style.line
        axes.plot(epochs, mean, linestyle=line, color=style.color, linewidth=1.8, marker=marker)
        if len(values) > 1:
            deviation = values.std(0, ddof=1)
            axes.fill_between(
                epochs, mean - deviation, mean + deviation, color=style.color, alpha=0.18, lw=0
            )


def coinciding(curves: Curves, method: str) -> str | None:
    """Return the first earlier method with exactly the same curves."""
    for other, values in curves.items():
        if other == method:
            return None
        if np.array_equal(values, curves[method]):
            return other
    return None


def _finish(chart: Figure, panels: list[Axes], comparison: Comparison) -> None:
    """Label the epochs, mark a third of the way, and explain every line in a legend."""
    early, count = comparison.early_epoch, comparison.epochs
    for axes in panels:
        if early < count:
            axes.axvline(early, color="#767676", linewidth=0.8, linestyle="--")
        tidy(axes)
    panels[-1].set_xlabel(comparison.point.capitalize())
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    entries = _legend(comparison)
    chart.set_figheight(chart.get_figheight() + 0.22 * -(-len(entries) // 2))
    chart.legend(
        [*entries.values()], [*map(literal, entries)], loc="outside lower left", ncols=2,
        frameon=False, fontsize="small",
    )  # fmt: skip


def _legend(comparison: Comparison) -> dict[str, Line2D | Patch]:
    look, scores = styles(comparison.study.method_labels), _curves(comparison, "score", 1.0)
    entries: dict[str, Line2D | Patch] = {}
    for method in scores:
        style, same = look[method], coinciding(scores, method)
        line: Any = (0, (4, 4)) if same else style.line
        label = f"{method} (same scores as {same})" if same else method
        entries[label] = Line2D([], [], color=style.color, linestyle=line)
    if any(run.diverged for run in comparison.runs):
        entries[f"{comparison.unusable} run"] = Line2D(
            [], [], color="#4d4d4d", linestyle=":", marker="x"
        )
    if comparison.study.seeds > 1:
        entries["line: mean over seeds"] = Line2D([], [], color="#767676")
        entries["band: ± 1 standard deviation"] = Patch(color="#767676", alpha=0.25, linewidth=0)
    if comparison.early_epoch < comparison.epochs:
        entries[f"a third of the {comparison.point}s"] = Line2D(
            [], [], color="#767676", linestyle="--"
        )
    return entries

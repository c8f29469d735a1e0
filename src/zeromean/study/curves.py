"""The picture of a comparison: test accuracy by epoch, and the difference to the baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zeromean.study.compare import Comparison
from zeromean.study.methods import BASELINE
from zeromean.study.train import Run

# Colours that readers with any colour vision can tell apart (Okabe and Ito).
COLOURS = {"plain": "#4d4d4d", "gc": "#0072b2", "gc-conv": "#d55e00", "gc-update": "#009e73"}
CAPTION = (
    "Above: test accuracy by epoch. Below: its difference to plain, seed by seed. "
    "Lines are means over the seeds, bands one standard deviation to each side; "
    "the dashed line is a third of the way."
)


# Large enough to be read where the picture is a hand wide.
LETTERS = 12


def draw(comparison: Comparison, path: Path) -> None:
    """Writes the picture as PNG.

    Args:
        comparison: Its finished runs; diverged ones are drawn dotted, up to where they broke.
        path: Of the file.
    """
    settings = comparison.settings
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    baseline = comparison.of(BASELINE)
    lower.axhline(0, color=COLOURS[BASELINE], linewidth=1.5)
    for method in settings.methods:
        runs = comparison.of(method)
        sound = {seed: run for seed, run in runs.items() if not run.diverged}
        if sound:
            accuracies = np.stack([_percent(run) for run in sound.values()])
            _line_and_band(upper, accuracies, method, label=method)
        _diverged(upper, method, [run for run in runs.values() if run.diverged])
        pairs = [seed for seed in sound if not baseline[seed].diverged]
        if pairs and method != BASELINE:
            differences = [_percent(runs[seed]) - _percent(baseline[seed]) for seed in pairs]
            _line_and_band(lower, np.stack(differences), method)
    upper.set_ylabel("Test accuracy, %", fontsize=LETTERS)
    lower.set_ylabel(f"Difference to {BASELINE}, points", fontsize=LETTERS)
    lower.set_xlabel("Epoch", fontsize=LETTERS)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if upper.get_legend_handles_labels()[0]:
        upper.legend(loc="lower right", frameon=False, fontsize=LETTERS)
    for axes in (upper, lower):
        if settings.early_epoch < settings.epochs:
            axes.axvline(settings.early_epoch, color="#999999", linewidth=0.8, linestyle="--")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=LETTERS)
    figure.savefig(path, dpi=175)


def _percent(run: Run) -> np.ndarray:
    return 100 * np.array([epoch.test_accuracy for epoch in run.epochs])


def _line_and_band(axes: Axes, values: np.ndarray, method: str, label: str | None = None) -> None:
    """``values``: a row a seed, a column an epoch."""
    epochs = np.arange(1, values.shape[1] + 1)
    mean = values.mean(0)
    # A single epoch has no line; a marker shows it.
    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, mean, color=COLOURS[method], linewidth=1.8, marker=marker, label=label)
    if len(values) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(
            epochs,
            mean - deviation,
            mean + deviation,
            color=COLOURS[method],
            alpha=0.18,
            linewidth=0,
        )


def _diverged(axes: Axes, method: str, runs: list[Run]) -> None:
    for number, run in enumerate(runs):
        accuracies = _percent(run)
        epochs = np.arange(1, len(accuracies) + 1)
        # One entry in the legend for all of them.
        label = f"{method}, diverged" if number == 0 else None
        axes.plot(epochs, accuracies, ":", color=COLOURS[method], linewidth=1)
        axes.plot(epochs[-1:], accuracies[-1:], "x", color=COLOURS[method], label=label)

"""The picture of a benchmark: every contestant's time by that of torch's own step."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from zeromean.bench.run import Benchmark, Match
from zeromean.bench.tensors import TENSORS
from zeromean.bench.timing import Duel
from zeromean.bench.work import OPTIMIZERS

# Colors that readers with any color vision can tell apart (Okabe and Ito).
COLORS = {None: "#4d4d4d", "gradient": "#0072b2", "update": "#009e73"}
LABELS = {None: "no GC", "gradient": "GC at gradient", "update": "GC at update"}
LETTERS = 11


def draw(benchmark: Benchmark, path: Path) -> None:
    """Writes the picture as PNG: a panel for each set of tensors and optimizer.

    Args:
        benchmark: What was measured.
        path: Of the file.
    """
    figure = render(benchmark)
    figure.savefig(path, dpi=140)


def render(benchmark: Benchmark) -> Figure:
    """The picture itself."""
    settings = benchmark.settings
    rows, columns = len(settings.tensors), len(settings.optimizers)
    lines = 1 + len(benchmark.matches[0].results)
    figure = Figure(figsize=(3.2 + 3.6 * columns, 0.9 + (0.6 + 0.27 * lines) * rows))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, match in zip(panels.flat, benchmark.matches, strict=True):
        _panel(axes, match)
    for axes in panels[-1]:
        axes.set_xlabel(f"time by that of {benchmark.matches[0].base.name}", fontsize=LETTERS)
    dots = [
        Line2D([], [], color=COLORS[at], marker="o", linewidth=1.6, label=LABELS[at])
        for at in COLORS
    ]
    figure.legend(
        handles=dots, loc="outside upper center", ncols=3, frameon=False, fontsize=LETTERS
    )
    return figure


def _panel(axes: Axes, match: Match) -> None:
    names = [match.base.name]
    axes.axvline(1, color=COLORS[None], linewidth=1)
    axes.plot([1], [0], "o", color=COLORS[None])
    ends = [1.0]
    for height, result in enumerate(match.results, start=1):
        names.append(result.contestant.name)
        if isinstance(result.outcome, Duel):
            _dot(axes, height, result.outcome, COLORS[result.contestant.centers])
            ends += [*result.outcome.quartiles, result.outcome.ratio]
        else:
            axes.text(
                1.05, height, result.outcome, va="center", fontsize=LETTERS - 2, style="italic"
            )
    axes.set_xscale("log", base=2)
    low, high = min(0.8, 0.85 * min(ends)), max(2.0, 1.8 * max(ends))
    axes.set_xlim(low, high)
    ticks = [tick for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    optimizer, tensors = OPTIMIZERS[match.optimizer].name, TENSORS[match.tensors].title
    axes.set_title(f"{optimizer}, {tensors}", fontsize=LETTERS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=LETTERS)


def _dot(axes: Axes, height: int, times: Duel, color: str) -> None:
    axes.plot(times.quartiles, [height, height], color=color, linewidth=1.6)
    axes.plot([times.ratio], [height], "o", color=color)
    right = max(times.ratio, times.quartiles[1])
    axes.annotate(
        f"{times.ratio:.2f}",
        (right, height),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=LETTERS - 2,
        color=color,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )

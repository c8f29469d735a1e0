"""Report a benchmark: a Markdown page and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from zeromean.bench.baselines import OPTIMIZERS
from zeromean.bench.paired_timing import Times
from zeromean.bench.run import BATCH, IMAGE_SIDE, Benchmark, Comparison
from zeromean.bench.tensors import TENSORS
from zeromean.tables import Table

NO_VALUE = "\N{EN DASH}"
# Okabe and Ito's colors, which readers with any color vision can distinguish.
COLORS = {None: "#4d4d4d", "gradient": "#0072b2", "update": "#009e73"}
LABELS = {None: "no GC", "gradient": "GC at gradient", "update": "GC at update"}
FONT_SIZE = 11


def markdown(benchmark: Benchmark) -> str:
    """Return all results as a Markdown page."""
    settings = benchmark.settings
    base = benchmark.comparisons[0].base.name
    clock = "Wall time" if settings.clock == "wall" else "Processor time of all threads"
    parts = [
        "# Cost of an optimizer step with GC",
        f"`{settings.command()}`",
        ", ".join(f"{name} {value}" for name, value in benchmark.environment.items()),
        f'{clock}. Each baseline is timed in turn with {base}. "Ratio" is its time relative to'
        f" {base} (no GC), the median over {settings.repeats} rounds; half of the rounds lie within"
        ' the "middle half". "To own step" is relative to the same implementation without GC.',
        *map(_comparison, benchmark.comparisons),
        *_bandwidth(benchmark),
        *_retained(benchmark),
        *_training(benchmark),
    ]
    return "\n\n".join(parts) + "\n"


def _comparison(comparison: Comparison) -> str:
    tensors, base = TENSORS[comparison.tensors], comparison.base
    seconds = comparison.base_seconds()
    first = NO_VALUE if seconds is None else _ms(seconds)
    rows: list[Sequence[str]] = [(base.name, "no", first, "1.00", NO_VALUE, NO_VALUE)]
    for baseline, times in comparison.results.items():
        name, at = baseline.name, baseline.centers or "no"
        if isinstance(times, str):
            rows.append((name, at, times, NO_VALUE, NO_VALUE, NO_VALUE))
            continue
        ratio, low_to_high = _ratio(times, name, base.name, digits=2)
        to_plain = comparison.ratio_to_plain(baseline)
        own = NO_VALUE if to_plain is None else f"{to_plain:.2f}"
        rows.append((name, at, _ms(times.median(name)), ratio, low_to_high, own))
    title = f"## {OPTIMIZERS[comparison.optimizer].name}, {tensors.title}"
    size = f"{len(tensors.shapes)} tensors, {tensors.parameters():,} parameters"
    header = ("step", "GC at", "ms", "ratio", "middle half", "to own step")
    return f"{title}\n\n{size}\n\n{Table(header, rows, left=2).markdown()}"


def _ratio(times: Times, name: str, base: str, digits: int) -> tuple[str, str]:
    low, high = times.middle_half(name, base)
    return f"{times.ratio(name, base):.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _bandwidth(benchmark: Benchmark) -> Iterator[str]:
    rows = [
        (
            f"{OPTIMIZERS[optimizer].name}, {TENSORS[tensors].title}",
            str(measured.bytes_per_parameter),
            f"{measured.of_step / 1e9:.1f}",
            f"{measured.share:.0%}",
        )
        for (tensors, optimizer), measured in benchmark.bandwidth.items()
    ]
    if rows:
        yield "## Memory bandwidth of zeromean.optim, at gradient"
        yield (
            "The bytes that a step must read and write, divided by its time; the share is relative"
            " to a copy of as many float32 numbers (8 bytes each), timed in turn. It can exceed"
            " 100 %, because a copy also loads the cache lines that it overwrites."
        )
        yield Table(("step", "bytes per parameter", "GB/s", "share of copy"), rows).markdown()


def _retained(benchmark: Benchmark) -> Iterator[str]:
    settings = benchmark.settings
    tensors = TENSORS[settings.tensors[0]]
    dtypes = list(dict.fromkeys(dtype for _, dtype in benchmark.retained))
    rows = []
    for baseline in dict.fromkeys(baseline for baseline, _ in benchmark.retained):
        counts = [benchmark.retained[baseline, dtype] for dtype in dtypes]
        per_vector = [f" ({count / tensors.vectors():g} per weight vector)" for count in counts]
        cells = [f"{n:,}{more if n else ''}" for n, more in zip(counts, per_vector, strict=True)]
        rows.append((baseline.name, *cells))
    if rows:
        yield "## Memory retained between steps"
        yield (
            f"Bytes of tensors beyond torch's own, {OPTIMIZERS[settings.optimizers[-1]].name} on"
            f" {tensors.title} ({tensors.vectors():,} weight vectors)."
        )
        header = ("step", *(str(dtype).removeprefix("torch.") for dtype in dtypes))
        yield Table(header, rows).markdown()


def _training(benchmark: Benchmark) -> Iterator[str]:
    rows = []
    for (optimizer, baseline), times in benchmark.training.items():
        base = next(iter(times.seconds))
        rows.append(
            (
                f"{OPTIMIZERS[optimizer].name}, {baseline.name}",
                _ms(times.median(baseline.name)),
                *_ratio(times, baseline.name, base, digits=3),
                base,
            )
        )
    if rows:
        yield f"## A whole training step: ResNet-18, batch {BATCH}"
        yield (
            f"Images of {IMAGE_SIDE} x {IMAGE_SIDE} pixels; forward, backward and optimizer step,"
            " relative to the same training step with the base, without GC."
        )
        yield Table(("step", "ms", "ratio", "middle half", "base"), rows).markdown()


def save_figure(benchmark: Benchmark, path: Path) -> None:
    """Write the figure as PNG."""
    figure(benchmark).savefig(path, dpi=140)


def figure(benchmark: Benchmark) -> Figure:
    """Return a figure of all ratios, with a panel per set of tensors and optimizer."""
    settings, first = benchmark.settings, benchmark.comparisons[0]
    rows, columns = len(settings.tensors), len(settings.optimizers)
    lines = 1 + len(first.results)
    drawn = Figure(figsize=(3.2 + 3.6 * columns, 0.9 + (0.6 + 0.27 * lines) * rows))
    drawn.set_layout_engine("constrained")
    panels = drawn.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, comparison in zip(panels.flat, benchmark.comparisons, strict=True):
        _panel(axes, comparison)
    for axes in panels[-1]:
        axes.set_xlabel(f"time relative to {first.base.name}", fontsize=FONT_SIZE)
    handles = [
        Line2D([], [], color=COLORS[at], marker="o", linewidth=1.6, label=LABELS[at])
        for at in COLORS
    ]
    drawn.legend(
        handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=FONT_SIZE
    )
    return drawn


def _panel(axes: Axes, comparison: Comparison) -> None:
    base = comparison.base.name
    axes.axvline(1, color=COLORS[None], linewidth=1)
    axes.plot([1], [0], "o", color=COLORS[None])
    ends = [1.0]
    for height, (baseline, times) in enumerate(comparison.results.items(), start=1):
        if isinstance(times, str):
            axes.text(1.05, height, times, va="center", fontsize=FONT_SIZE - 2, style="italic")
            continue
        ratio, middle_half = (
            times.ratio(baseline.name, base),
            times.middle_half(baseline.name, base),
        )
        color = COLORS[baseline.centers]
        axes.plot(middle_half, [height, height], color=color, linewidth=1.6)
        axes.plot([ratio], [height], "o", color=color)
        axes.annotate(
            f"{ratio:.2f}",
            (max(ratio, middle_half[1]), height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_SIZE - 2,
            color=color,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
        ends += [*middle_half, ratio]
    axes.set_xscale("log", base=2)
    low, high = min(0.8, 0.85 * min(ends)), max(2.0, 1.8 * max(ends))
    axes.set_xlim(low, high)
    ticks = [2.0**n for n in range(-4, 8) if low <= 2.0**n <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    names = [base, *(baseline.name for baseline in comparison.results)]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    optimizer, tensors = OPTIMIZERS[comparison.optimizer].name, TENSORS[comparison.tensors].title
    axes.set_title(f"{optimizer}, {tensors}", fontsize=FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=FONT_SIZE)

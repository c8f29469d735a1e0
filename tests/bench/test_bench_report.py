"""The tables and the figure of known results."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from zeromean.bench import report
from zeromean.bench.baselines import BASELINES
from zeromean.bench.report import NO_VALUE
from zeromean.bench.run import Benchmark


def test_markdown_contains_all_results(benchmark_result: Benchmark) -> None:
    page = report.markdown(benchmark_result)
    lines = page.splitlines()
    command = "zeromean bench --tensors tiny --optimizer adamw --repeats 3 --threads 1 --device cpu"
    assert f"`{command}`" in lines
    assert "torch 9.9, kernels native" in lines
    assert "## AdamW, 300 tiny tensors" in lines
    assert "300 tensors, 3,600 parameters" in lines
    none = f"{NO_VALUE} | {NO_VALUE}"
    assert f"| torch fused | no | 2 | 1.00 | {none} |" in lines
    assert f"| torch foreach | no | 6 | 3.00 | 3.00 to 3.50 | {NO_VALUE} |" in lines
    assert "| zeromean.optim, at update | update | 6 | 3.00 | 3.00 to 3.50 | 3.00 |" in lines
    own = "| centralize(torch default), at gradient | gradient | 6 | 3.00 | 3.00 to 3.50 | 1.00 |"
    assert own in lines
    assert (
        f"| optax, jitted, centralize | gradient | not installed | {NO_VALUE} | {none} |" in lines
    )
    rows = [line for line in lines if line.split(" | ")[0][2:] in {one.name for one in BASELINES}]
    assert len(rows) == len(BASELINES) + 1  # and one of the retained memory
    assert "| AdamW, 300 tiny tensors | 28 | 4.7 | 117% |" in lines
    assert "| zeromean.optim, at update | 0 | 4,800 (4 per weight vector) |" in lines
    base = BASELINES[0].name
    assert (
        f"| AdamW, zeromean.optim, at gradient | 2005 | 1.002 | 1.001 to 1.004 | {base} |" in lines
    )


def test_figure_shows_every_baseline(benchmark_result: Benchmark) -> None:
    figure = report.figure(benchmark_result)
    (axes,) = figure.axes
    assert axes.get_title() == "AdamW, 300 tiny tensors"
    assert [label.get_text() for label in axes.get_yticklabels()] == [b.name for b in BASELINES]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["3.00"] * (len(BASELINES) - 2) + ["not installed"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [1] + [3.0] * (len(BASELINES) - 2)
    low, high = axes.get_xlim()
    assert low < 1
    assert high > 3.5
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["no GC", "GC at gradient", "GC at update"]


def test_figure_is_written_as_png(benchmark_result: Benchmark, tmp_path: Path) -> None:
    report.save_figure(benchmark_result, tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as picture:
        assert min(picture.size) > 400
        colors = picture.convert("RGB").getcolors(10**6)
    assert colors is not None
    assert {(77, 77, 77), (0, 114, 178), (0, 158, 115)} <= {color for _, color in colors}

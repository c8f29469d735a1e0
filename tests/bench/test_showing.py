"""The table and the picture of results that are known."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from zeromean.bench import plot, table
from zeromean.bench.contestants import CONTESTANTS
from zeromean.bench.run import Benchmark
from zeromean.bench.table import NOTHING


def test_the_table_says_what_was_measured(benchmark_result: Benchmark) -> None:
    page = table.markdown(benchmark_result)
    lines = page.splitlines()
    command = "zeromean bench --tensors tiny --optimizer adamw --repeats 3 --threads 1 --device cpu"
    assert f"`{command}`" in lines
    assert "torch 9.9, kernels native" in lines
    assert "## AdamW, 300 tiny tensors" in lines
    assert "300 tensors, 3,600 parameters" in lines
    assert f"| torch fused | no | 2 | 1.00 | {NOTHING} |" in lines
    assert "| torch foreach | no | 6 | 3.00 | 3.00 to 3.50 |" in lines
    assert "| zeromean.optim, at update | update | 6 | 3.00 | 3.00 to 3.50 |" in lines
    assert (
        f"| optax, jitted, centralize | gradient | not installed | {NOTHING} | {NOTHING} |" in lines
    )
    rows = [line for line in lines if line.split(" | ")[0][2:] in {c.name for c in CONTESTANTS}]
    assert len(rows) == len(CONTESTANTS) + 1  # and one below, of the memory kept
    assert "| AdamW, 300 tiny tensors | 28 | 4.7 | 4.0 | 117% |" in lines
    assert "| zeromean.optim, at update | 0 | 4,800 (4 a weight vector) |" in lines
    assert "| AdamW, zeromean.optim, at gradient | 2005 | 1.002 | 1.001 to 1.004 |" in lines


def test_every_table_has_as_many_cells_as_its_head(benchmark_result: Benchmark) -> None:
    head = 0
    for line in table.markdown(benchmark_result).splitlines():
        cells = line.count(" | ") if line.startswith("|") else 0
        assert not (cells and head) or cells == head
        head = cells


def test_the_picture_shows_every_contestant(benchmark_result: Benchmark) -> None:
    figure = plot.render(benchmark_result)
    (axes,) = figure.axes
    assert axes.get_title() == "AdamW, 300 tiny tensors"
    assert [label.get_text() for label in axes.get_yticklabels()] == [c.name for c in CONTESTANTS]
    words = [text.get_text() for text in axes.texts]
    assert words == ["3.00"] * (len(CONTESTANTS) - 2) + ["not installed"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [1] + [3.0] * (len(CONTESTANTS) - 2)
    low, high = axes.get_xlim()
    assert low < 1
    assert high > 3.5
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["no GC", "GC at gradient", "GC at update"]


def test_the_picture_is_a_png(benchmark_result: Benchmark, tmp_path: Path) -> None:
    plot.draw(benchmark_result, tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as picture:
        assert min(picture.size) > 400
        colors = picture.convert("RGB").getcolors(10**6)
    assert colors is not None
    assert {(77, 77, 77), (0, 114, 178), (0, 158, 115)} <= {color for _, color in colors}

"""The parts that all charts of a report share: SVG output, axes, and one style per method."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Width in inches. matplotlib's 10-point text stays readable on a phone that is 360 pixels wide.
WIDTH = 5.0

# Colors with a contrast of at least 4.5 on white, as distinct for any color vision as so many can
# be. The most common methods always have the same color.
NAMED = {"plain": "#4d4d4d", "gc": "#0072b2", "gc-conv": "#b84a00", "gc-update": "#007a59"}
OTHERS = (
    *("#a8326f", "#8a6100", "#6a3d9a", "#1b7837", "#00767d", "#b2182b", "#7468b3", "#8c564b"),
    *("#1a7f9c", "#c51b7d", "#6b6b00", "#2166ac"),
)
# Line style, marker and CSS border; the next ones are used when all of OTHERS are in use.
ROUNDS = (("-", "o", "solid"), ("--", "s", "dashed"), ("-.", "^", "double"))


@dataclass(frozen=True)
class Style:
    """The style of a method in charts and tables.

    Args:
        color: Color as ``#rrggbb``.
        line: Line style of matplotlib; dotted is reserved for runs that diverged.
        marker: Marker of matplotlib.
        border: CSS border style nearest to the line.
    """

    color: str
    line: str = "-"
    marker: str = "o"
    border: str = "solid"


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """Return a style per method; they all differ if at most 36 methods are not in ``NAMED``."""
    others = [method for method in methods if method not in NAMED]

    def style(method: str) -> Style:
        if method in NAMED:
            return Style(NAMED[method])
        turn, place = divmod(others.index(method), len(OTHERS))
        return Style(OTHERS[place], *ROUNDS[turn % len(ROUNDS)])

    return {method: style(method) for method in methods}


def figure(height: float) -> Figure:
    """Return an empty figure of this height in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def tidy(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Apply the style that all charts share to axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def literal(text: str) -> str:
    """Return text that matplotlib shows as it is: it reads formulas between dollar signs."""
    return text.replace("$", r"\$")


def svg(chart: Figure, name: str) -> str:
    """Render a figure as an SVG element for an HTML page.

    Args:
        chart: Figure to render.
        name: Name that is unique on the page, from which the element's ids are made.
    """
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # None leaves them out
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # The page has its own fonts; matplotlib's only measure the text.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        chart.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue().decode()
    # Drop the XML header, and the ids of groups: several charts have the same, and none is used.
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    head, end, rest = text.partition(">")
    return re.sub(r' (width|height|version)="[^"]*"', "", head) + end + rest

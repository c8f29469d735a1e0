"""How a method looks: a color, line and marker of its own, alike in every part of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Colors that readers with any color vision can tell apart (Okabe and Ito), then others.
NAMED = {"plain": "#4d4d4d", "gc": "#0072b2", "gc-conv": "#d55e00", "gc-update": "#009e73"}
OTHERS = (
    *("#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#6a3d9a", "#b2182b", "#1b7837", "#998ec3"),
    *("#80cdc1", "#c51b7d", "#7f7f00", "#2166ac"),
)


@dataclass(frozen=True)
class Style:
    """What a method is known by.

    Args:
        color: With a leading #.
        line: As matplotlib names it; dotted is left to runs that diverged.
        marker: As matplotlib names it.
        border: As style sheets name what comes nearest to the line.
    """

    color: str
    line: str = "-"
    marker: str = "o"
    border: str = "solid"


# Where colors run out they begin again with the next of these.
ROUNDS = (("-", "o", "solid"), ("--", "s", "dashed"), ("-.", "^", "double"))


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """By method, in the order given; no two alike up to 36 that have no color of their own."""
    others = [method for method in methods if method not in NAMED]
    found = {}
    for number, method in enumerate(others):
        turn, place = divmod(number, len(OTHERS))
        found[method] = Style(OTHERS[place], *ROUNDS[turn % len(ROUNDS)])
    return {
        method: Style(NAMED[method]) if method in NAMED else found[method] for method in methods
    }

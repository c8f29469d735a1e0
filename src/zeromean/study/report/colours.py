"""One colour a method, the same in every part of a report."""

from __future__ import annotations

from collections.abc import Sequence

# Colours that readers with any colour vision can tell apart (Okabe and Ito), then others.
NAMED = {"plain": "#4d4d4d", "gc": "#0072b2", "gc-conv": "#d55e00", "gc-update": "#009e73"}
OTHERS = (
    *("#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#6a3d9a", "#b2182b", "#1b7837", "#998ec3"),
    *("#80cdc1", "#c51b7d", "#7f7f00", "#2166ac"),
)


def colours(methods: Sequence[str]) -> dict[str, str]:
    """By method, in the order given; with more than sixteen they begin again."""
    others = [method for method in methods if method not in NAMED]
    given = {method: OTHERS[number % len(OTHERS)] for number, method in enumerate(others)}
    return {method: NAMED.get(method) or given[method] for method in methods}

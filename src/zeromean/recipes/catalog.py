"""Every published result: the recipes that repeat it, or why there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from zeromean.errors import ZeromeanError
from zeromean.recipes import published
from zeromean.recipes.recipe import Recipe, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Result:
    """A table or figure of results.

    Args:
        paper: A key of ``PAPERS``.
        place: Its key among the published numbers.
        recipes: Those that repeat it.
        reason: Why there is none; empty where there are recipes.
        instead: What comes nearest.
    """

    paper: str
    place: str
    recipes: tuple[Recipe, ...]
    reason: str = ""
    instead: str = ""

    @property
    def heading(self) -> str:
        """Such as ``Table 1: CIFAR-100 test accuracy %``."""
        return f"{published.name(self.place)}: {published.what(self.paper, self.place)}"


@cache
def recipes() -> tuple[Recipe, ...]:
    """All of them, by their files' names."""
    folder = files("zeromean.recipes") / "declared"
    found = sorted((file for file in folder.iterdir()), key=lambda file: file.name)
    return tuple(
        recipe
        for file in found
        if file.name.endswith(".toml")
        for recipe in parse(file.read_text(encoding="utf-8"))
    )


def results() -> list[Result]:
    """Every table and figure of results, paper by paper."""
    text = (files("zeromean.recipes") / "elsewhere.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["results"]
    elsewhere = {(row.pop("paper"), row.pop("place")): row for row in rows}
    return [
        Result(paper, place, _of(paper, place), **elsewhere.get((paper, place), {}))
        for paper in published.PAPERS
        for place in published.places(paper)
    ]


def _of(paper: str, place: str) -> tuple[Recipe, ...]:
    return tuple(one for one in recipes() if one.paper == paper and place in one.places)


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ZeromeanError: There is none.
    """
    for recipe in recipes():
        if recipe.name == name:
            return recipe
    raise ZeromeanError(
        f"recipe {name!r}", names(recipes()), "name one of these; zeromean tables tells of them"
    )


def names(some: Iterable[Recipe]) -> str:
    """Their names with commas."""
    return ", ".join(recipe.name for recipe in some)

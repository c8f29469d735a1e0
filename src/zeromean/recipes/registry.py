"""The published results, each with the recipes or the script that repeat it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from zeromean.errors import ZeromeanError
from zeromean.recipes import published
from zeromean.recipes.recipe import Recipe, parse


@dataclass(frozen=True)
class Result:
    """A published table or figure of results.

    Args:
        paper: Key of ``PAPERS``.
        place: Key of the result among the published numbers.
        recipes: Recipes that repeat it.
        command: Without a recipe, the command of the script that repeats it.
        status: Data or machine that the script has run on.
        page: Page with the results of the script.
    """

    paper: str
    place: str
    recipes: tuple[Recipe, ...]
    command: str = ""
    status: str = ""
    page: str = ""

    @property
    def heading(self) -> str:
        """A line such as ``Table 1: CIFAR-100 test accuracy %``."""
        return f"{published.name(self.place)}: {published.description(self.paper, self.place)}"


@cache
def recipes() -> tuple[Recipe, ...]:
    """Return all recipes, sorted by the names of their files."""
    folder = files("zeromean.recipes") / "declared"
    return tuple(
        recipe
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".toml")
        for recipe in parse(file.read_text(encoding="utf-8"))
    )


def results() -> list[Result]:
    """Return every table and figure of results, paper by paper."""
    text = (files("zeromean.recipes") / "scripts.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["results"]
    scripts = {(row.pop("paper"), row.pop("place")): row for row in rows}
    return [
        Result(
            paper,
            place,
            tuple(one for one in recipes() if one.paper == paper and place in one.places),
            **scripts.get((paper, place), {}),
        )
        for paper in published.PAPERS
        for place in published.places(paper)
    ]


def find(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        ZeromeanError: There is none.
    """
    for recipe in recipes():
        if recipe.name == name:
            return recipe
    raise ZeromeanError(
        f"the recipe {name!r} is not one of {', '.join(one.name for one in recipes())}",
        "Use one of these; zeromean tables describes them",
    )

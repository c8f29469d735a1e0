"""A recipe: a study, the data it is about, and the published number of each method."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from zeromean.recipes import published
from zeromean.recipes.published import Published
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask
from zeromean.study.spec.toml import from_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The data in a recipe's file, which the user replaces.
PLACEHOLDER = "DATA"
# The row of a method that the published table does not have.
NEW = "-"


@dataclass(frozen=True)
class DataSet:
    """The data behind published numbers.

    Args:
        name: Name that its authors gave it.
        form: Form of the argument ``--data``, such as ``cifar:DIR``.
        train, test, classes: Numbers of training images, test images and classes.
        shape: Channels, height and width of an image as networks see it.
        note: What else is needed to prepare the data; may be empty.
    """

    name: str
    form: str
    train: int
    test: int
    classes: int
    shape: tuple[int, int, int]
    note: str = ""

    def matches(self, train: int, test: int, classes: int, shape: tuple[int, ...]) -> bool:
        """Return whether data may be these; a random split may divide their sum otherwise."""
        own = (self.train + self.test, self.classes, self.shape)
        return (train + test, classes, shape) == own


@dataclass(frozen=True)
class Column:
    """A column of a published table.

    Args:
        place: Key of the table, or of a part of it, among the published numbers.
        heading: Heading of the column; None for a table with one column.
        rows: Published row of each method, ``-`` if there is none. The first method is the
            baseline of the others.
    """

    place: str
    heading: str | None
    rows: Mapping[str, str]

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return next(iter(self.rows))

    @property
    def table(self) -> str:
        """Key of the table that this is a column of."""
        return self.place.partition(".")[0] if self.place.startswith("table") else self.place

    @property
    def part(self) -> str:
        """The part of the table, such as an initialization; may be empty."""
        return "" if self.table == self.place else self.place.partition(".")[2]

    def title(self, paper: str) -> str:
        """Return a title such as ``CWN Table 2, Xavier, SVHN``."""
        name = f"{published.PAPERS[paper]} {published.name(self.place)}"
        return ", ".join(one for one in (name, self.part, self.heading) if one)

    def number(self, paper: str, method: str) -> Published | None:
        """Return the published number of a method; None if there is none."""
        if self.rows[method] == NEW:
            return None
        return published.number(paper, self.place, self.heading, self.rows[method])


@dataclass(frozen=True)
class Recipe:
    """A study that repeats a column of a published table.

    Args:
        name: Name of the recipe on the command line.
        title: One line on what it trains.
        paper: Key of ``PAPERS``.
        metrics: Keys of ``METRICS``; published numbers are of the first one.
        repeats: Number of published runs per number.
        columns: Published columns, whose methods are those of the study.
        curves: Keys of pictures that the curves of its report repeat.
        data: Data behind the published numbers.
        notes: Departures from what was published, and choices where nothing was.
        step_seconds: Seconds per training step, mean over the methods, by machine.
        study: Study with ``DATA`` as its data.
    """

    name: str
    title: str
    paper: str
    metrics: tuple[str, ...]
    repeats: int
    columns: tuple[Column, ...]
    curves: tuple[str, ...]
    data: DataSet
    notes: tuple[str, ...]
    step_seconds: Mapping[str, float]
    study: Study

    @property
    def task(self) -> ImageTask:
        """The only task of the study."""
        (task,) = self.study.tasks
        assert isinstance(task, ImageTask)
        return task

    @property
    def places(self) -> list[str]:
        """Keys of the tables and pictures that it repeats."""
        return list(dict.fromkeys([*(column.table for column in self.columns), *self.curves]))

    def on(self, data: str, seeds: int | None = None) -> Study:
        """Return the study on the user's data, named as for ``zeromean compare --data``."""
        task = msgspec.structs.replace(self.task, data=data)
        seeds = self.study.seeds if seeds is None else seeds
        return msgspec.structs.replace(self.study, tasks=(task,), seeds=seeds)


def parse(text: str) -> Iterator[Recipe]:
    """Parse the recipes of a file, one per entry of ``[[recipe.columns]]``.

    The file is a study file with a table ``[recipe]``. Each entry may change settings of the study
    (``study``), of its task (``task``) and of the data.
    """
    table = tomllib.loads(text)
    shared = table.pop("recipe")
    for own in shared["columns"]:
        yield _recipe(table, shared, own)


def _recipe(table: dict[str, Any], shared: dict[str, Any], own: dict[str, Any]) -> Recipe:
    (task,) = table["tasks"]
    study = {**table, **own.get("study", {}), "tasks": [{**task, **own.get("task", {})}]}
    data = {**shared["data"], **own.get("data", {})}
    return Recipe(
        name=own["name"],
        title=own["title"],
        paper=shared["paper"],
        metrics=tuple(shared["metrics"]),
        repeats=shared["repeats"],
        columns=tuple(
            Column(one["place"], one.get("column"), one.get("rows", shared.get("rows")))
            for one in own["published"]
        ),
        curves=tuple(own.get("curves", shared.get("curves", ()))),
        data=DataSet(**{**data, "shape": tuple(data["shape"])}),
        notes=(*shared.get("notes", ()), *own.get("notes", ())),
        step_seconds=own.get("step_seconds", {}),
        study=from_table(study),
    )

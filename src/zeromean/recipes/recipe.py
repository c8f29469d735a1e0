"""What a recipe is: a study, the data it is about, and the published numbers beside its methods."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from zeromean.recipes import published
from zeromean.recipes.published import Published
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask as Task
from zeromean.study.spec.toml import from_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What a recipe's file has in the place of the data, which the user names.
PLACEHOLDER = "DATA"
# In the place of a row: a method that the published table does not have.
NEW = "-"


@dataclass(frozen=True)
class Images:
    """The data that the published numbers are about.

    Args:
        name: As their authors call them.
        form: How the study engine is told of them, such as ``cifar:DIR``.
        train, test, classes: How many.
        shape: Channels, height and width of an image as networks see it.
        note: What else has to be known to get them; may be empty.
    """

    name: str
    form: str
    train: int
    test: int
    classes: int
    shape: tuple[int, int, int]
    note: str = ""

    def are(self, train: int, test: int, classes: int, shape: tuple[int, ...]) -> bool:
        """Whether such data may be these; where they are split anew, the sum of images counts."""
        own = (self.train + self.test, self.classes, self.shape)
        return (train + test, classes, shape) == own


@dataclass(frozen=True)
class Block:
    """A column of a published table.

    Args:
        place: Key of the table, or of a part of it, among the published numbers.
        column: Its heading; None where the table has a single column.
        rows: The published row of each method, or ``-`` for a method that was not there. The
            first method is what the others are compared with.
    """

    place: str
    column: str | None
    rows: Mapping[str, str]

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return next(iter(self.rows))

    @property
    def table(self) -> str:
        """Key of the table that it is of or a part of."""
        return self.place.partition(".")[0] if self.place.startswith("table") else self.place

    @property
    def label(self) -> str:
        """What the part of the table is called, and a colon; empty for a whole one."""
        return f"{self.place.partition('.')[2]}: " if self.place != self.table else ""

    def number(self, paper: str, method: str) -> Published | None:
        """What was published of a method; None if nothing was."""
        row = self.rows[method]
        return None if row == NEW else published.number(paper, self.place, self.column, row)

    def heading(self, paper: str) -> str:
        """Such as ``CWN Table 2, Xavier, Yale-B``."""
        name = f"{published.PAPERS[paper]} {published.name(self.place)}"
        parts = [name, self.label.removesuffix(": "), self.column or ""]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Recipe:
    """A study that repeats a column of a published table, or a picture.

    Args:
        name: What ``zeromean reproduce`` calls it.
        title: One line.
        paper: Where it was published, a key of ``PAPERS``.
        measures: What is compared, names of ``MEASURES``; the first is the published one.
        repeats: How many runs a published number is the mean of.
        blocks: The published columns; the methods of the study are theirs.
        curves: Keys of pictures that the curves of its report repeat.
        data: What the published numbers are about.
        notes: How it departs from what was published, and what was not published.
        step_seconds: Of a training step, mean over the methods, by the machine it was measured on.
        study: All settings, with ``DATA`` in the place of the data.
    """

    name: str
    title: str
    paper: str
    measures: tuple[str, ...]
    repeats: int
    blocks: tuple[Block, ...]
    curves: tuple[str, ...]
    data: Images
    notes: tuple[str, ...]
    step_seconds: Mapping[str, float]
    study: Study

    @property
    def task(self) -> Task:
        """The one task of the study."""
        (task,) = self.study.tasks
        return task

    @property
    def places(self) -> list[str]:
        """Keys of the tables and pictures that it repeats."""
        return list(dict.fromkeys([*(block.table for block in self.blocks), *self.curves]))

    def on(self, data: str, seeds: int | None = None) -> Study:
        """Its study on data that the user names, as ``zeromean compare --data`` takes them."""
        return replace(
            self.study,
            tasks=(replace(self.task, data=data),),
            seeds=self.study.seeds if seeds is None else seeds,
        )


def parse(text: str) -> Iterator[Recipe]:
    """The recipes of a file, one a column of the table it is about.

    It is a study's file with a table ``[recipe]``; each of its ``columns`` may change ``study``
    and ``task`` settings and ``data``.
    """
    table = tomllib.loads(text)
    about = table.pop("recipe")
    for column in about["columns"]:
        yield _recipe(table, about, column)


def _recipe(table: dict[str, Any], about: dict[str, Any], column: dict[str, Any]) -> Recipe:
    (task,) = table["tasks"]
    study = {**table, **column.get("study", {}), "tasks": [{**task, **column.get("task", {})}]}
    data = {**about["data"], **column.get("data", {})}
    blocks = [
        Block(one["place"], one.get("column"), one.get("rows", about.get("rows")))
        for one in column["published"]
    ]
    return Recipe(
        name=column["name"],
        title=column["title"],
        paper=about["paper"],
        measures=tuple(about["measures"]),
        repeats=about["repeats"],
        blocks=tuple(blocks),
        curves=tuple(column.get("curves", about.get("curves", ()))),
        data=Images(**{**data, "shape": tuple(data["shape"])}),
        notes=(*about.get("notes", ()), *column.get("notes", ())),
        step_seconds=column.get("step_seconds", {}),
        study=from_table(study),
    )

"""A recipe: a study, its data, and the published number of each method.

zeromean trains the study's task itself, or the study compares runs of one of the package's training
programs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import msgspec

from zeromean.errors import MissingExtraError, ZeromeanError
from zeromean.recipes import published
from zeromean.recipes.published import Published
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask
from zeromean.study.spec.toml import from_table

# Placeholders in a recipe's file for the data, the pretrained weights and the device of the user.
PLACEHOLDER = "DATA"
WEIGHTS = "WEIGHTS"
DEVICE = "DEVICE"
# The row of a method that the published table does not have.
NEW = "-"


@dataclass(frozen=True)
class DataSet:
    """The data set of published numbers.

    Args:
        name: Name that its authors gave it.
        form: Form of the argument ``--data``, such as ``cifar:DIR``; empty for an environment of
            reinforcement learning, which needs no data.
        train, test, classes: Numbers of training images, test images and classes.
        shape: Channels, height and width of an image as networks see it.
        note: Further advice on how to prepare the data; may be empty.
    """

    name: str
    form: str
    train: int = 0
    test: int = 0
    classes: int = 0
    shape: tuple[int, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        if not self.form:
            return f"{self.name}{note}"
        return (
            f"{self.name} ({self.form}), {self.train:,} training and {self.test:,} test images of"
            f" {'x'.join(map(str, self.shape))}, {self.classes} classes{note}"
        )

    def matches(self, train: int, test: int, classes: int, shape: tuple[int, ...]) -> bool:
        """Return whether data may be this set; only the sum of training and test images counts.

        A random split may divide the images otherwise.
        """
        own = (self.train + self.test, self.classes, self.shape)
        return (train + test, classes, shape) == own


@dataclass(frozen=True)
class Column:
    """A column of a published table.

    Args:
        place: Key of the table, or of a part of it, in the published numbers.
        heading: Heading of the column; None for a table with one column.
        rows: Label of each method's row in the table, ``-`` if there is none. The first method is
            the baseline of the others.
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
        """The key of the table that has this column."""
        return self.place.partition(".")[0] if self.place.startswith("table") else self.place

    @property
    def part(self) -> str:
        """The part of the table, such as an initialization; may be empty."""
        return self.place.removeprefix(self.table).removeprefix(".")

    def title(self, paper: str) -> str:
        """Return a title such as ``CWN Table 2, Xavier, SVHN``."""
        name = f"{published.PAPERS[paper]} {published.name(self.place)}"
        return ", ".join(one for one in (name, self.part, self.heading) if one)

    def number(self, paper: str, method: str, metric: str | None = None) -> Published | None:
        """Return the published number of a method; None if there is none.

        Args:
            paper: Key of ``PAPERS``.
            method: Label of the method.
            metric: Key of ``METRICS``; None for the first one of the table.
        """
        if self.rows[method] == NEW:
            return None
        return published.number(paper, self.place, self.heading, self.rows[method], metric)


@dataclass(frozen=True)
class Program:
    """The requirements and options of a training program of the package.

    Args:
        extra: Extra of zeromean that installs its packages.
        modules: Modules that the extra installs and the program imports.
        lengths: Options of the program that count epochs, episodes or steps, which ``--scale``
            multiplies by the same factor. The first one is the length of the training.
        processes: Number of processes of the published runs, one per device.
        weights: The pretrained weights to pass as ``--weights``; empty for fresh weights.
    """

    extra: str
    modules: tuple[str, ...]
    lengths: tuple[str, ...]
    processes: int = 1
    weights: str = ""

    def check_installed(self, recipe: str) -> None:
        """Check that the packages of the program are installed.

        Raises:
            MissingExtraError: A package is missing.
        """
        missing = [one for one in self.modules if find_spec(one) is None]
        if missing:
            raise MissingExtraError(
                f"{recipe} needs {' and '.join(missing)}, which this environment lacks",
                f"Run pip install 'zeromean[{self.extra}]'",
            )


@dataclass(frozen=True)
class Recipe:
    """A study that repeats a column of a published table.

    Args:
        name: Name of the recipe on the command line.
        title: Description of the training in one line.
        paper: Key of ``PAPERS``.
        metrics: Keys of ``METRICS``; published numbers are of the first one.
        repeats: Number of published runs per number.
        columns: Published columns, whose methods are those of the study.
        curves: Keys of the published figures that the curves of the report repeat.
        data: Data behind the published numbers.
        notes: Differences from the published setup, and choices where the paper gives none.
        step_seconds: Seconds per training step by machine, a mean over the methods.
        study: Study with ``DATA`` as its data.
        program: The training program; None for a task that zeromean trains itself.
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
    program: Program | None = None

    @property
    def task(self) -> ImageTask:
        """The only task of a study that zeromean trains itself."""
        (task,) = self.study.tasks
        assert isinstance(task, ImageTask)
        return task

    @property
    def places(self) -> list[str]:
        """The keys of the tables and figures that the recipe repeats."""
        return list(dict.fromkeys([*(column.table for column in self.columns), *self.curves]))

    @property
    def length(self) -> tuple[int, str]:
        """The length of a run and its unit, such as 100 and ``epoch``."""
        return self.length_of(self.study)

    def length_of(self, study: Study) -> tuple[int, str]:
        """Return the length of a run and its unit, in a study made from this recipe."""
        if self.program is None:
            return study.trained_tasks[0].epochs, "epoch"
        (task,), option = study.programs, self.program.lengths[0]
        number = task.command[task.command.index(option) + 1]
        return int(number), option.strip("-").removesuffix("s")

    @property
    def has_device(self) -> bool:
        """Whether a run can use a device other than the CPU."""
        return not self.study.programs or DEVICE in self.study.programs[0].command

    def on(
        self,
        data: str,
        seeds: int | None = None,
        *,
        weights: str = "",
        processes: int | None = None,
        precision: str = "float32",
        device: str = "cpu",
        threads: int | None = None,
    ) -> Study:
        """Return the study on the user's data.

        Args:
            data: Data as for ``zeromean compare --data``; for a program, a path.
            seeds: Number of seeds; None for the recipe's.
            weights: File of the pretrained weights that a program starts from.
            processes: Number of processes of a program; None for the published number.
            precision, device, threads: Settings of the study.

        Raises:
            ZeromeanError: A program that knows no devices would run in several processes.
        """
        (task,) = self.study.tasks
        if isinstance(task, ProgramTask):
            assert self.program is not None
            count = self.program.processes if processes is None else processes
            if count > 1 and not self.has_device:
                raise ZeromeanError(
                    f"{self.name} trains in one process, not in {count}", "Remove --processes"
                )
            given = {PLACEHOLDER: data, WEIGHTS: weights, DEVICE: device}
            command = [given.get(word, word) for word in task.command]
            command += ["--amp"] if precision == "bfloat16" else []
            task = msgspec.structs.replace(task, command=(*_launcher(count), *command))
        else:
            task = msgspec.structs.replace(self.task, data=data)
        return msgspec.structs.replace(
            self.study,
            tasks=(task,),
            seeds=self.study.seeds if seeds is None else seeds,
            precision=precision,
            device=device,
            threads=threads,
        )


def _launcher(processes: int) -> list[str]:
    """Return the words that start a module in several processes."""
    if processes == 1:
        return []
    return ["torchrun", "--nproc-per-node", str(processes), "--master-port", "{port}"]


def parse(text: str) -> Iterator[Recipe]:
    """Parse the recipes of a file, one per entry of ``[[recipe.columns]]``.

    The file is a study file with a table ``[recipe]``. Each entry may change settings of the study
    (``study``), of its task (``task``), of the data and of the program, and add words to the
    command of a program (``arguments``).
    """
    table = tomllib.loads(text)
    shared = table.pop("recipe")
    for own in shared["columns"]:
        yield _recipe(table, shared, own)


def _recipe(table: dict[str, Any], shared: dict[str, Any], own: dict[str, Any]) -> Recipe:
    (task,) = table["tasks"]
    task = {**task, **own.get("task", {})}
    program = None
    if "program" in shared:
        task["command"] = [*task["command"], *own.get("arguments", [])]
        program = msgspec.convert({**shared["program"], **own.get("program", {})}, Program)
    study = {**table, **own.get("study", {}), "tasks": [task]}
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
        data=DataSet(**{**data, "shape": tuple(data.get("shape", ()))}),
        notes=(*shared.get("notes", ()), *own.get("notes", ())),
        step_seconds=own.get("step_seconds", {}),
        study=from_table(study),
        program=program,
    )

"""The conditions under which a recipe runs, and whether published numbers compare with it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from zeromean.recipes.program_data import Found
from zeromean.recipes.recipe import Recipe
from zeromean.study.spec.study import Study
from zeromean.study.tasks.problem import Problem
from zeromean.tables import amount


@dataclass(frozen=True)
class RunConditions:
    """The conditions of a run of a recipe, and their differences from the published ones.

    Args:
        recipe: Recipe that is run.
        study: Its study as it is run, without a note.
        scale: Share of the published training.
        published_data: Whether the numbers of images and classes, and the image size, are as
            published.
        data: One-line description of the data.
        processes: Number of processes of a run.
    """

    recipe: Recipe
    study: Study
    scale: float
    published_data: bool
    data: str
    processes: int = 1

    @classmethod
    def of(cls, recipe: Recipe, study: Study, problem: Problem, scale: float) -> RunConditions:
        """Return the conditions that follow from the loaded data."""
        train = len(problem.train.targets)
        if problem.watched is not problem.test:
            train += len(problem.watched.targets)  # a part of the training images
        classes = int(problem.train.targets.max()) + 1
        same = recipe.data.matches(train, len(problem.test.targets), classes, problem.shape)
        return cls(recipe, study, scale, same, problem.description)

    @classmethod
    def of_program(
        cls, recipe: Recipe, study: Study, found: Found, scale: float, processes: int
    ) -> RunConditions:
        """Return the conditions of a program that follow from the files that it will read."""
        same = recipe.data.matches(found.train, found.test, found.classes, recipe.data.shape)
        return cls(recipe, study, scale, same, found.description, processes)

    @property
    def comparable(self) -> bool:
        """Whether the numbers may be compared with published ones."""
        return self.scale == 1 and self.published_data

    @property
    def mark(self) -> str:
        """The words that headings add if training is shortened; empty otherwise."""
        return f" (training shortened to {self.scale:g})" if self.scale != 1 else ""

    @property
    def note(self) -> str:
        """The sentences on these differences that precede the results."""
        recipe = self.recipe
        parts = [f"Recipe {recipe.name}."]
        if self.scale != 1:
            (number, unit), (short, _) = recipe.length, recipe.length_of(self.study)
            parts.append(
                f"Training is shortened (--scale {self.scale:g}) to {short} of {number} {unit}s,"
                " with the schedule scaled alike; published numbers are from the whole training."
            )
        if recipe.program is not None and self.processes != recipe.program.processes:
            parts.append(
                f"Each run is on {amount(self.processes, 'device')}, not on"
                f" {recipe.program.processes} as published."
            )
        if not self.published_data:
            parts.append(f"Other data than published: {self.data}, not {recipe.data.name}.")
        if self.study.precision != "float32":
            parts.append(f"Computed in {self.study.precision}.")
        return " ".join(parts)

    def noted(self) -> Study:
        """Return the study with the note, which every report of its results starts with."""
        return msgspec.structs.replace(self.study, note=self.note)

    def introduction(self) -> str:
        """Return what is printed before any training."""
        recipe = self.recipe
        titles = "; ".join(column.title(recipe.paper) for column in recipe.columns)
        notes = "".join(f"\n- {note}" for note in recipe.notes)
        return f"{self.note}\n\n{recipe.title}\n{titles}\n{notes}".rstrip() + "\n"

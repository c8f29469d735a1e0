"""Under what conditions a recipe is run, and whether published numbers can be held against it."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from zeromean.recipes.recipe import Recipe
from zeromean.study.spec.study import Study
from zeromean.study.tasks.problem import Problem


@dataclass(frozen=True)
class Conditions:
    """What tells a run of a recipe from the published one.

    Args:
        recipe: What is run.
        study: Its study as it is run, without a note.
        scale: Share of the training.
        published_data: Whether the data have as many images and classes as published, of that size.
        data: One line on the data.
    """

    recipe: Recipe
    study: Study
    scale: float
    published_data: bool
    data: str

    @classmethod
    def of(cls, recipe: Recipe, study: Study, problem: Problem, scale: float) -> Conditions:
        train = len(problem.train.targets)
        if problem.watched is not problem.test:
            train += len(problem.watched.targets)  # held out of the training images
        classes = int(problem.train.targets.max()) + 1
        shape = problem.shape
        same = recipe.data.are(train, len(problem.test.targets), classes, shape)
        return cls(recipe, study, scale, same, problem.description)

    @property
    def comparable(self) -> bool:
        """Whether published numbers are of training as long and of such data."""
        return self.scale == 1 and self.published_data

    @property
    def mark(self) -> str:
        """A word on shortened training, for headings; empty where it is not."""
        return f" (training shortened to {self.scale:g})" if self.scale != 1 else ""

    @property
    def note(self) -> str:
        """What whoever sees the numbers has to know."""
        (task,), (full,) = self.study.tasks, self.recipe.study.tasks
        parts = [f"Recipe {self.recipe.name}."]
        if self.scale != 1:
            parts.append(
                f"Training is shortened (--scale {self.scale:g}): {task.epochs} of {full.epochs}"
                " epochs, its schedule alike; published numbers are of all of it."
            )
        if not self.published_data:
            parts.append(f"Other data than published: {self.data}, not {self.recipe.data.name}.")
        if self.study.precision != "float32":
            parts.append(f"Computed in {self.study.precision}.")
        return " ".join(parts)

    def noted(self) -> Study:
        """The study with the note, which its report and all that is printed of it begin with."""
        return replace(self.study, note=self.note)

    def introduction(self) -> str:
        """What is said before anything is trained."""
        recipe = self.recipe
        places = [block.heading(recipe.paper) for block in recipe.blocks]
        notes = "".join(f"\n- {note}" for note in recipe.notes)
        return f"{self.note}\n\n{recipe.title}\n{'; '.join(places)}\n{notes}".rstrip() + "\n"

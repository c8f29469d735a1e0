"""``zeromean tables``: the published results and the recipes that repeat them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from zeromean.cli.output import echo, fill
from zeromean.errors import ZeromeanError
from zeromean.tables import Table, amount

if TYPE_CHECKING:
    from zeromean.recipes.recipe import Recipe
    from zeromean.recipes.registry import Result

# An indentation level and a text.
Line = tuple[int, str]


def tables(
    words: Annotated[
        str, typer.Argument(help="Describe the results that contain this, such as cwn-table3.")
    ] = "",
) -> None:
    """List every published table and figure of results, and the recipe that repeats it.

    The sources are both papers, the published code's README and the tutorial. With WORDS, it shows
    data, cost, published numbers, and numbers measured here. zeromean reproduce runs a recipe.
    """
    from zeromean.recipes import published, registry

    found: dict[str, list[tuple[Result, list[Line]]]] = {}
    for result in registry.results():
        lines = list(describe(result))
        if words.lower() in "\n".join(text for _, text in lines).lower():
            found.setdefault(result.paper, []).append((result, lines))
    if not found:
        raise ZeromeanError(
            f"no published result contains {words!r}", "Run zeromean tables to list all of them"
        )
    for paper, results in found.items():
        echo(f"{published.title(paper)}\n")
        if words:
            for level, text in (line for _, lines in results for line in (*lines, (0, ""))):
                echo(fill(text, " " * (2 * level), " " * (2 * level + 4)))
        else:
            rows = [row for result, _ in results for row in summarize(result)]
            echo(f"{Table(('result', 'recipe or script', 'status'), rows, left=3)}\n")
    if not words:
        echo("Describe one: zeromean tables NAME. Run one: zeromean reproduce NAME --data ...")


def summarize(result: Result) -> Iterator[tuple[str, str, str]]:
    """Yield one row per recipe, or one for the script."""
    from zeromean.recipes import published
    from zeromean.recipes.outcome import status

    name = published.name(result.place)
    for recipe in result.recipes:
        yield name, recipe.name, status(recipe)
    if not result.recipes:
        yield name, result.command.rpartition("/")[2], result.status


def describe(result: Result) -> Iterator[Line]:
    """Yield the heading of a result, and all facts about its recipes or its script."""
    from zeromean.recipes import published
    from zeromean.recipes.outcome import status

    yield 0, result.heading
    for recipe in result.recipes:
        yield 1, f"{recipe.name}: {recipe.title}"
        yield 2, f"data: {recipe.data}"
        if recipe.program is not None and recipe.program.weights:
            yield 2, f"weights: {recipe.program.weights}"
        yield 2, f"cost: {_cost(recipe)}"
        yield from ((2, f"published: {text}") for text in _published(recipe, result.place))
        yield 2, f"status: {status(recipe)}"
        yield from ((2, f"here: {text}") for text in _measured(recipe, result.place))
    if not result.recipes:
        yield 1, f"script: {result.command}"
        for text in published.lines(result.paper, result.place):
            yield 2, f"published: {text}"
        yield 2, f"status: {result.status} ({result.page})"


def _cost(recipe: Recipe) -> str:
    from zeromean.recipes.cost import duration

    runs, length, steps = planned(recipe)
    if recipe.program is not None:
        devices = amount(recipe.program.processes, "device")
        return f"{amount(runs, 'run')}, {amount(length, recipe.length[1])}, on {devices}"
    text = f"{amount(runs, 'run')}, {amount(length, 'epoch')} of {amount(steps, 'step')}"
    for machine, seconds in recipe.step_seconds.items():
        text += f"; about {duration(length * steps * seconds)} on {machine}"
    return text


def planned(recipe: Recipe) -> tuple[int, int, int]:
    """Return the runs and epochs of a recipe, tuning included, and the steps per epoch."""
    from zeromean.study.engine.scheduler import planned_keys

    study, train = recipe.study, float(recipe.data.train)
    keys = planned_keys(study)
    if recipe.program is not None:
        return len(keys), len(keys) * recipe.length[0], 0
    if study.tuning is not None:
        train = round(train * (1 - study.tuning.validation))
    return len(keys), sum(map(study.epochs, keys)), int(train // recipe.task.batch_size)


def _published(recipe: Recipe, place: str) -> Iterator[str]:
    from zeromean.recipes.comparison import numbers

    columns = [column for column in recipe.columns if column.table == place]
    several = len({column.heading for column in columns}) > 1
    found = False
    for column in columns:
        cells: dict[str, dict[str, str]] = {}
        for metric in recipe.metrics:
            for method, number in numbers(recipe, column, metric).items():
                if number is not None:
                    cells.setdefault(column.rows[method], {})[metric] = str(number)
        labels = [column.part, column.heading if several else ""]
        if cells:
            found = True
            text = ", ".join(f"{row} {' / '.join(cell.values())}" for row, cell in cells.items())
            yield ": ".join([*filter(None, labels), text])
    if not found:
        yield "no numbers" if recipe.paper == "guides" else "curves, as the report draws them"


def _measured(recipe: Recipe, place: str) -> Iterator[str]:
    from zeromean.recipes.outcome import kept

    outcomes = [one for one in kept() if one.recipe == recipe.name]
    others = {
        method
        for column in recipe.columns
        if column.table != place and place not in recipe.curves
        for method in column.rows
    }
    for outcome in outcomes:
        for text in outcome.lines(without=others):
            yield f"{text} ({outcome.conditions})"

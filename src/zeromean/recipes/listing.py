"""What ``zeromean tables`` tells of a result."""

from __future__ import annotations

from collections.abc import Iterator

from zeromean.recipes import published
from zeromean.recipes.catalog import Result
from zeromean.recipes.cost import amount, duration
from zeromean.recipes.outcome import kept
from zeromean.recipes.recipe import Block, Recipe
from zeromean.study.engine.scheduler import planned_keys

# A level of indentation and a text.
Line = tuple[int, str]


def lines(result: Result) -> Iterator[Line]:
    """Heading, then its recipes, or why there is none."""
    yield 0, result.heading
    for recipe in result.recipes:
        yield 1, f"{recipe.name}: {recipe.title}"
        yield 2, f"data: {_data(recipe)}"
        yield 2, f"cost: {_cost(recipe)}"
        yield from ((2, f"published: {text}") for text in _published(recipe, result.place))
        yield from ((2, f"here: {text}") for text in _here(recipe, result.place))
    if not result.recipes:
        instead = f"; instead: {result.instead}" if result.instead else ""
        yield 1, f"no recipe: {result.reason or 'not declared yet'}{instead}"
        for text in published.lines(result.paper, result.place):
            yield 2, f"published: {text}"


def _data(recipe: Recipe) -> str:
    data = recipe.data
    return (
        f"{data.name} ({data.form}), {data.train:,} training and {data.test:,} test images of"
        f" {'x'.join(map(str, data.shape))}, {data.classes} classes"
        + (f"; {data.note}" if data.note else "")
    )


def _cost(recipe: Recipe) -> str:
    runs, epochs, steps = planned(recipe)
    text = f"{amount(runs, 'run')}, {amount(epochs, 'epoch')} of {amount(steps, 'step')}"
    for machine, seconds in recipe.step_seconds.items():
        text += f"; about {duration(epochs * steps * seconds)} on {machine}"
    return text


def planned(recipe: Recipe) -> tuple[int, int, int]:
    """Runs and epochs of all of it, tuning included, and steps of an epoch."""
    study = recipe.study
    keys = planned_keys(study)
    train = recipe.data.train
    if study.tuning is not None:
        train = round(train * (1 - study.tuning.validation))
    return len(keys), sum(map(study.epochs, keys)), train // recipe.task.batch_size


def _blocks(recipe: Recipe, place: str) -> list[Block]:
    return [block for block in recipe.blocks if block.table == place]


def _published(recipe: Recipe, place: str) -> Iterator[str]:
    told, blocks = False, _blocks(recipe, place)
    several = len({block.column for block in blocks}) > 1
    for block in blocks:
        numbers = {row: block.number(recipe.paper, method) for method, row in block.rows.items()}
        cells = [f"{row} {number}" for row, number in numbers.items() if number is not None]
        if cells:
            told = True
            column = f"{block.column}: " if several else ""
            yield f"{block.label}{column}{', '.join(cells)}"
    if not told:
        yield "no numbers" if recipe.paper == "guides" else "curves, as the report draws them"


def _here(recipe: Recipe, place: str) -> Iterator[str]:
    outcomes = [one for one in kept() if one.recipe == recipe.name]
    for outcome in outcomes:
        blocks = _blocks(recipe, place) or recipe.blocks
        methods = dict.fromkeys(method for block in blocks for method in block.rows)
        for text in outcome.lines(methods):
            yield f"{text} ({outcome.conditions})"
    if not outcomes:
        yield "not run"

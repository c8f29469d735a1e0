"""Published and measured numbers of a finished recipe, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zeromean.recipes.agreement import Agreement, agreement
from zeromean.recipes.measures import MEASURES, Measure
from zeromean.recipes.published import Published
from zeromean.recipes.recipe import Block, Recipe
from zeromean.study.engine.results import Results
from zeromean.study.report.table import NOTHING
from zeromean.study.spec.records import Run
from zeromean.study.statistics import (
    CONFIDENCE,
    Paired,
    Spread,
    interval_of_mean,
    paired,
    spread,
)

WITH_INTERVAL = f"({CONFIDENCE:.0%} interval)"


@dataclass(frozen=True)
class Cell:
    """A method beside its published number.

    Args:
        method: Its name.
        published: None where nothing was.
        runs, diverged: How many.
        measured: Over the runs that did not diverge; None if all did.
        interval: Of the measured mean; None from too few runs.
        agreement: With the published number; None where they are not to be compared.
        published_difference: To the published baseline.
        difference: To the measured baseline, run by run; None for the baseline itself.
    """

    method: str
    published: Published | None
    runs: int
    diverged: int
    measured: Spread | None
    interval: tuple[float, float] | None
    agreement: Agreement | None
    published_difference: float | None
    difference: Paired | None


@dataclass(frozen=True)
class Column:
    """A measure of every method of a table.

    Args:
        measure: What is compared.
        baseline: The method that the others' differences are to.
        cells: One a method.
    """

    measure: Measure
    baseline: str
    cells: tuple[Cell, ...]

    def header(self, name: str) -> list[str]:
        """The headings of :meth:`texts`; ``name`` is of the measured number."""
        return [
            *(["published"] if self._has_published else []),
            f"{name} {WITH_INTERVAL}",
            *([f"less published {WITH_INTERVAL}"] if self.is_comparable else []),
            *([f"published difference to {self.baseline}"] if self._has_published else []),
            f"difference to {self.baseline} {WITH_INTERVAL}",
        ]

    def texts(self, cell: Cell) -> list[str]:
        """All that is told of a method."""
        signed = self.measure.difference
        theirs, ours = cell.published_difference, cell.difference
        told = [NOTHING if cell.published is None else str(cell.published)]
        told = told if self._has_published else []
        told.append(self._measured(cell))
        if self.is_comparable:
            told.append(self._agreement(cell.agreement))
        if self._has_published:
            told.append(NOTHING if theirs is None else signed(theirs))
        told.append(NOTHING if ours is None else signed(ours.mean) + _span(ours.interval, signed))
        return told

    @property
    def _has_published(self) -> bool:
        return any(cell.published is not None for cell in self.cells)

    @property
    def is_comparable(self) -> bool:
        """Whether measured numbers are held against published ones."""
        return any(cell.agreement is not None for cell in self.cells)

    def _measured(self, cell: Cell) -> str:
        failed = f", {cell.diverged} of {cell.runs} diverged" if cell.diverged else ""
        if cell.measured is None:
            return f"{NOTHING}{failed}"
        number, deviation = self.measure.number, cell.measured.deviation
        text = number(cell.measured.mean) + ("" if deviation is None else f" ± {number(deviation)}")
        return text + _span(cell.interval, number) + failed

    def _agreement(self, found: Agreement | None) -> str:
        if found is None:
            return NOTHING
        signed = self.measure.difference
        text = signed(found.difference) + _span(found.interval, signed)
        return f"{text} {found.verdict}".strip()


@dataclass(frozen=True)
class Table:
    """A published column, or the methods of a table without numbers, beside what was run.

    Args:
        heading: Where it was published.
        columns: One a measure, of the same methods.
    """

    heading: str
    columns: tuple[Column, ...]

    @property
    def title(self) -> str:
        """The heading, with the measure where there is one."""
        if len(self.columns) > 1:
            return self.heading
        return f"{self.heading}: {self.columns[0].measure.label}"

    def by_measure(self) -> list[Table]:
        """A table of each column, for where there is little room."""
        return [Table(self.heading, (column,)) for column in self.columns]

    def header(self) -> list[str]:
        """The headings of :meth:`rows`."""
        single = len(self.columns) == 1
        found = ["method"]
        for column in self.columns:
            found += column.header("measured" if single else column.measure.label)
        return found

    def rows(self) -> list[list[str]]:
        """A row a method, as text."""
        return [
            [cells[0].method, *itertools.chain(*map(Column.texts, self.columns, cells))]
            for cells in zip(*(column.cells for column in self.columns), strict=True)
        ]


def tables(recipe: Recipe, results: Results, comparable: bool, mark: str = "") -> list[Table]:
    """One for each published column.

    Args:
        recipe: What was run.
        results: Of its study.
        comparable: Whether training was as long, and on such data, as what was published.
        mark: Said after each heading.
    """
    (comparison,) = results.comparisons
    return [
        Table(
            block.heading(recipe.paper) + mark,
            tuple(
                Column(
                    MEASURES[name],
                    block.baseline,
                    tuple(
                        _cell(
                            recipe,
                            block,
                            {one: comparison.of(one) for one in (method, block.baseline)},
                            method,
                            MEASURES[name],
                            comparable,
                            # Only the first measure has published numbers.
                            has_published=number == 0,
                        )
                        for method in block.rows
                    ),
                )
                for number, name in enumerate(recipe.measures)
            ),
        )
        for block in recipe.blocks
    ]


def _cell(
    recipe: Recipe,
    block: Block,
    runs: Mapping[str, Mapping[int, Run]],
    method: str,
    measure: Measure,
    comparable: bool,
    has_published: bool,
) -> Cell:
    values = {one: _values(found, measure) for one, found in runs.items()}
    own, control = values[method], values[block.baseline]
    number = block.number(recipe.paper, method) if has_published else None
    theirs = block.number(recipe.paper, block.baseline) if has_published else None
    pairs = [(own[seed], control[seed]) for seed in own if seed in control]
    is_baseline = method == block.baseline
    return Cell(
        method=method,
        published=number,
        runs=len(runs[method]),
        diverged=len(runs[method]) - len(own),
        measured=spread([*own.values()]) if own else None,
        interval=interval_of_mean([*own.values()]),
        agreement=agreement([*own.values()], number, recipe.repeats)
        if comparable and number is not None and own
        else None,
        published_difference=number.value - theirs.value
        if number is not None and theirs is not None and not is_baseline
        else None,
        difference=paired(*zip(*pairs, strict=True)) if pairs and not is_baseline else None,
    )


def _values(runs: Mapping[int, Run], measure: Measure) -> dict[int, float]:
    """By seed, of the runs that did not diverge."""
    return {
        seed: measure.of(run)
        for seed, run in runs.items()
        if not run.diverged and run.test_score is not None
    }


def _span(interval: tuple[float, float] | None, number: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    low, high = map(number, interval)
    return f" ({low} to {high})"


def markdown(found: Sequence[Table]) -> str:
    """The tables for a page, each below its heading."""
    text = ""
    for table in found:
        header = table.header()
        text += f"**{table.title}**\n\n"
        text += f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n"
        text += "".join(f"| {' | '.join(row)} |\n" for row in table.rows()) + "\n"
    return text


def explanation(found: Sequence[Table]) -> str:
    """What the numbers of the tables are."""
    compared = any(column.is_comparable for table in found for column in table.columns)
    return (
        "Measured: mean ± standard deviation over the seeds, with the interval of the mean. "
        + (
            "Less published: with Welch's interval, in which both sides have their noise; it agrees"
            " where 0 is in it. "
            if compared
            else ""
        )
        + "Differences are paired by seed."
    )

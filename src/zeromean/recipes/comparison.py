"""Compare published and measured numbers of a finished recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zeromean.recipes.agreement_test import agreement
from zeromean.recipes.metrics import METRICS, RunMetric, unfinished
from zeromean.recipes.published import Published
from zeromean.recipes.recipe import Column, Recipe
from zeromean.recipes.run_conditions import RunConditions
from zeromean.study.engine.results import Results
from zeromean.study.report import sections
from zeromean.study.report.statistics import CONFIDENCE, interval_of_mean, paired, spread
from zeromean.study.report.table import MISSING
from zeromean.tables import Table, amount

INTERVAL = f"({CONFIDENCE:.0%} interval)"
# Numbers by seed, for each method, of the runs that finished.
Values = Mapping[str, Mapping[int, float]]


def measured(results: Results, metric: RunMetric) -> dict[str, dict[int, float]]:
    """Return a metric of every run that finished, by method and seed."""
    (comparison,) = results.comparisons
    return {
        method: {seed: metric.of(run) for seed, run in comparison.finished(method).items()}
        for method in results.study.method_labels
    }


def tables(conditions: RunConditions, results: Results) -> list[tuple[str, Table]]:
    """Build a table with its title for each published column and metric.

    Args:
        conditions: Recipe that was run, and the conditions of the run.
        results: Results of its study.
    """
    recipe = conditions.recipe
    return [
        (
            f"{column.title(recipe.paper)}{conditions.mark}: {METRICS[name].label}",
            _table(conditions, column, results, METRICS[name], numbers(recipe, column, name)),
        )
        for column in recipe.columns
        for name in recipe.metrics
    ]


def numbers(recipe: Recipe, column: Column, metric: str) -> dict[str, Published | None]:
    """Return the published number of each method; a table with one metric has the first one."""
    name = None if metric == recipe.metrics[0] else metric
    return {method: column.number(recipe.paper, method, name) for method in column.rows}


def _table(
    conditions: RunConditions,
    column: Column,
    results: Results,
    metric: RunMetric,
    numbers: Mapping[str, Published | None],
) -> Table:
    recipe, values, baseline = conditions.recipe, measured(results, metric), column.baseline

    def versus_published(method: str) -> str:
        number, own = numbers[method], values[method]
        if number is None or not own:
            return MISSING
        found = agreement([*own.values()], number, recipe.repeats)
        interval = _interval(found.interval, metric.difference)
        return f"{metric.difference(found.difference)}{interval} {found.verdict}".strip()

    def published_difference(method: str) -> str:
        number, control = numbers[method], numbers[baseline]
        if number is None or control is None or method == baseline:
            return MISSING
        return metric.difference(number.value - control.value)

    def difference(method: str) -> str:
        if method == baseline:
            return MISSING
        return _difference(values[method], values[baseline], metric)

    has_numbers = any(number is not None for number in numbers.values())
    # Heading, cell of a method, and whether the column is shown.
    columns: list[tuple[str, Callable[[str], str], bool]] = [
        ("method", str, True),
        ("published", lambda one: str(numbers[one] or MISSING), has_numbers),
        (f"measured {INTERVAL}", lambda one: _measured(values[one], results, metric), True),
        (
            f"measured minus published {INTERVAL}",
            versus_published,
            has_numbers and conditions.comparable,
        ),
        (f"published difference to {baseline}", published_difference, has_numbers),
        (f"difference to {baseline} {INTERVAL}", difference, True),
    ]
    shown = [(heading, cell) for heading, cell, is_shown in columns if is_shown]
    rows = [[cell(method) for _, cell in shown] for method in numbers]
    return Table([heading for heading, _ in shown], rows)


def _measured(own: Mapping[int, float], results: Results, metric: RunMetric) -> str:
    lost = unfinished(len(own), results.study.seeds)
    lost = f", {lost}" if lost else ""
    if not own:
        return f"{MISSING}{lost}"
    numbers = [*own.values()]
    found = spread(numbers)
    interval = _interval(interval_of_mean(numbers), metric.number)
    return f"{metric.average(found.mean, found.deviation)}{interval}{lost}"


def _difference(own: Mapping[int, float], control: Mapping[int, float], metric: RunMetric) -> str:
    pairs = [(own[seed], control[seed]) for seed in own if seed in control]
    if not pairs:
        return MISSING
    found = paired(*zip(*pairs, strict=True))
    return f"{metric.difference(found.mean)}{_interval(found.interval, metric.difference)}"


def _interval(interval: tuple[float, float] | None, form: Callable[[float], str]) -> str:
    return "" if interval is None else f" ({form(interval[0])} to {form(interval[1])})"


def explanation(comparable: bool) -> str:
    """Explain the numbers of the tables."""
    compared = (
        " Measured minus published has Welch's interval, which includes the noise of both sides;"
        " the numbers agree if it includes 0."
    )
    return (
        "Measured: mean ± standard deviation over the seeds, with the interval of the mean."
        f"{compared if comparable else ''} Differences are paired by seed."
    )


def page(conditions: RunConditions, results: Results, found: list[tuple[str, Table]]) -> str:
    """Return a Markdown page with the tables, their conditions, and all known differences."""
    recipe, study = conditions.recipe, results.study
    (info,) = results.infos.values()
    (section,) = sections(results)
    split = f"; {info.split}" if recipe.program is None else ""
    blocks = [
        f"# {recipe.title}",
        conditions.note,
        f"    {results.command}",
        f"Data: {conditions.data}{split}. {amount(study.seeds, 'seed')}{results.growth}.",
        *(f"**{title}**\n\n{table.markdown()}" for title, table in found),
        explanation(conditions.comparable),
        "\n".join(f"- {one}" for one in section.conclusions),
        "\n".join(f"- {note}" for note in recipe.notes),
        "Environment: "
        + "; ".join(
            ", ".join(f"{name} {value}" for name, value in session.items())
            for session in results.sessions
        )
        + ".",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"

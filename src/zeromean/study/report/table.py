"""The table of a comparison as text cells: one row per quantity, one column per method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from zeromean.study.engine.results import Comparison
from zeromean.study.report.statistics import CONFIDENCE, Paired, Spread, seeds_needed, spread
from zeromean.study.report.summary import Stage, Summary, target_score
from zeromean.study.spec.metric import MINUS, Metric, with_unit
from zeromean.study.spec.program import ProgramTask
from zeromean.study.tasks.program import TAKEN_OVER
from zeromean.tables import Table

MISSING = "\N{EN DASH}"
Row = tuple[str, ...]


def tabulate(
    comparison: Comparison, summaries: list[Summary], min_effect: float | None = None
) -> Table:
    """Build the table of a comparison, with one column per method.

    A label that starts with two spaces marks a row that gives details of the row above.

    Args:
        comparison: Comparison to show.
        summaries: One summary per method.
        min_effect: Difference of scores, above 0, for which the table shows the number of seeds
            that detect it (default: no such row).
    """
    metric, early = comparison.metric, comparison.early_epoch

    def row(label: str, cell: Callable[[Summary], str]) -> Row:
        return label, *(cell(summary) for summary in summaries)

    point, examples = comparison.point, comparison.info.watched
    watched = metric.name if examples == "test" else f"{examples} {metric.name}"
    table = _stage_rows(f"Final {metric.name}", metric, [one.final for one in summaries])
    if any(one.corrected for one in summaries):
        table.append(row("  p, corrected", lambda one: _optional(one.corrected_p, "{:.3g}")))
    if early < comparison.epochs:
        label = f"{watched} at {point} {early}"
        if label.islower():  # a name such as mAP stays as it is
            label = label.capitalize()
        table += _stage_rows(label, metric, [one.early for one in summaries])
    if any(one.gap is not None for one in summaries):
        table.append(
            row(f"Training minus test {metric.name}", lambda one: _spread_cell(one.gap, metric))
        )
    target = target_score(comparison)
    if target is not None:
        steps = comparison.info.steps
        goal = f"to {metric.value(target)}" + ("" if examples == "test" else f" {watched}")
        table.append(
            row(f"{point.capitalize()}s {goal}", lambda one: _target_cell(one.target.epochs, "g"))
        )
        if steps:
            needed = [[steps * number for number in one.target.epochs] for one in summaries]
            table.append(("  steps", *(_target_cell(one, ".0f") for one in needed)))
        table.append(row("  seconds", lambda one: _target_cell(one.target.seconds, ".3g")))
    if min_effect is not None:
        label = f"Seeds to see {metric.number(min_effect)} {metric.difference_unit}".rstrip()
        table.append(row(label, lambda one: _seeds_cell(one, min_effect)))
    table += [
        row(f"Seconds per {point}", lambda summary: _optional(summary.seconds_per_epoch, "{:.3g}")),
        row("Overhead", lambda summary: _optional(summary.overhead, "{:+.0%}")),
    ]
    if isinstance(comparison.task, ProgramTask):
        table.append(row("  step", lambda one: _step(comparison, one.method)))
    label = f"{comparison.unusable.capitalize()} runs"
    table.append(row(label, lambda summary: f"{summary.diverged} of {summary.runs}"))
    return Table(("", *(summary.method for summary in summaries)), table)


def fold(table: Table, width: int) -> list[Table]:
    """Split a table by columns into the fewest parts whose lines have at most ``width`` characters.

    If a single column is too wide, each method gets a part of its own.
    """
    methods = range(1, len(table.header))
    for parts in methods:
        size = math.ceil(len(methods) / parts)
        found = [
            Table(*_columns(table, [0, *methods[start : start + size]]))
            for start in range(0, len(methods), size)
        ]
        if all(len(line) <= width for one in found for line in str(one).splitlines()):
            break
    return found


def _columns(table: Table, numbers: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    lines = [[line[number] for number in numbers] for line in (table.header, *table.rows)]
    return lines[0], lines[1:]


def _stage_rows(label: str, metric: Metric, stages: list[Stage]) -> list[Row]:
    def row(label: str, cell: Callable[[Paired], str]) -> Row:
        differences = [stage.difference for stage in stages]
        return label, *(MISSING if one is None else cell(one) for one in differences)

    def interval(one: Paired) -> str:
        return MISSING if one.interval is None else ", ".join(map(metric.difference, one.interval))

    return [
        (with_unit(label, metric.unit), *(_spread_cell(stage.score, metric) for stage in stages)),
        row(
            with_unit("  difference", metric.difference_unit),
            lambda one: metric.difference(one.mean),
        ),
        row(f"  {CONFIDENCE:.0%} interval", interval),
        row("  p", lambda one: _optional(one.p_value, "{:.3g}")),
    ]


def _step(comparison: Comparison, method: str) -> str:
    """Return which step a program's runs used: a faster one is not an effect of the method."""
    shares = {
        run.epochs[-1].metrics.get(TAKEN_OVER)
        for run in comparison.of(method).values()
        if run.epochs
    }
    names = {None: "torch's", 0.0: "two passes", 1.0: "taken over"}
    return "/".join(sorted(names.get(share, "mixed") for share in shares)) or MISSING


def _spread_cell(score: Spread | None, metric: Metric) -> str:
    if score is None:
        return MISSING
    mean = metric.number(score.mean)
    if score.deviation is None:
        return mean
    return f"{mean} ± {metric.number(score.deviation, like=score.mean)}"


def _target_cell(amounts: Sequence[float], form: str) -> str:
    """Return the median, with misses as infinity, and how many runs reached the target."""
    middle = statistics.median(amounts)
    reached = sum(math.isfinite(amount) for amount in amounts)
    median = f"{middle:{form}}" if math.isfinite(middle) else "never"
    return f"{median} ({reached}/{len(amounts)})"


def _seeds_cell(summary: Summary, min_effect: float) -> str:
    difference = summary.final.difference
    if difference is None or len(difference.differences) < 2:
        return MISSING
    deviation = spread(difference.differences).deviation
    assert deviation is not None  # of two or more values
    return str(seeds_needed(deviation, min_effect, summary.comparisons))


def _optional(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value).replace("-", MINUS)

"""The table of a comparison as text cells: a row a measure, a column a method."""

from __future__ import annotations

import math
import statistics as order
from collections.abc import Callable, Sequence

from zeromean.study.engine.results import Comparison
from zeromean.study.spec.metric import MINUS, Metric
from zeromean.study.statistics import CONFIDENCE, Spread, seeds_needed, spread
from zeromean.study.summary import Stage, Summary, target_score

NOTHING = "\N{EN DASH}"
Row = tuple[str, list[str]]


def rows(comparison: Comparison, summaries: list[Summary], gain: float | None = None) -> list[Row]:
    """Labels with one cell a method, in the order of ``summaries``.

    Args:
        comparison: Whose table it is.
        summaries: One a method.
        gain: The difference of scores, above 0, of which the table tells how many seeds it takes
            to see it; None leaves the row out.
    """
    metric, task = comparison.metric, comparison.task

    def row(label: str, cell: Callable[[Summary], str]) -> Row:
        return label, [cell(summary) for summary in summaries]

    table = _stage_rows(f"Final {metric.name}", metric, [one.final for one in summaries])
    if summaries[-1].family > 1 or summaries[0].family > 1:
        table.append(row("  p, corrected", lambda one: _optional(one.holm, "{:.3g}")))
    if task.early_epoch < task.epochs:
        label = f"{_watched(comparison)} at epoch {task.early_epoch}".capitalize()
        table += _stage_rows(label, metric, [one.early for one in summaries])
    table.append(row(f"Training minus test {metric.name}", _gap_cell))
    target = target_score(comparison)
    if target is not None:
        steps = comparison.info.steps
        to = f"to {metric.value(target)}"
        if comparison.info.watched != "test":
            to += f" {_watched(comparison)}"
        table += [
            row(f"Epochs {to}", lambda one: _target_cell(one.target.epochs, "g")),
            row(
                "  steps",
                lambda one: _target_cell([steps * number for number in one.target.epochs], ".0f"),
            ),
            row("  seconds", lambda one: _target_cell(one.target.seconds, ".3g")),
        ]
    if gain is not None:
        label = f"Seeds to see {metric.number(gain)} {metric.difference_unit}"
        table.append(row(label, lambda one: _seeds_cell(one, gain)))
    return [
        *table,
        row("Seconds per epoch", lambda summary: f"{summary.seconds_per_epoch:.3g}"),
        row("Overhead", lambda summary: _optional(summary.overhead, "{:+.0%}")),
        row("Diverged runs", lambda summary: f"{summary.diverged} of {summary.runs}"),
    ]


def _watched(comparison: Comparison) -> str:
    """The metric, with what it is taken on where that is not the test set."""
    watched, name = comparison.info.watched, comparison.metric.name
    return name if watched == "test" else f"{watched} {name}"


def _stage_rows(label: str, metric: Metric, stages: list[Stage]) -> list[Row]:
    differences = [stage.difference for stage in stages]
    return [
        (
            f"{label}, {metric.unit}" if metric.unit else label,
            [_spread_cell(stage.score, metric) for stage in stages],
        ),
        (
            f"  difference, {metric.difference_unit}",
            [NOTHING if one is None else metric.difference(one.mean) for one in differences],
        ),
        (
            f"  {CONFIDENCE:.0%} interval",
            [
                NOTHING
                if one is None or one.interval is None
                else ", ".join(map(metric.difference, one.interval))
                for one in differences
            ],
        ),
        (
            "  p",
            [_optional(None if one is None else one.p_value, "{:.3g}") for one in differences],
        ),
    ]


def _spread_cell(score: Spread | None, metric: Metric) -> str:
    if score is None:
        return NOTHING
    mean = metric.number(score.mean)
    if score.deviation is None:
        return mean
    return f"{mean} ± {metric.number(score.deviation, beside=score.mean)}"


def _gap_cell(summary: Summary) -> str:
    return _spread_cell(summary.gap, summary.metric)


def _target_cell(amounts: Sequence[float], form: str) -> str:
    """The median, with misses as infinitely much, and how many runs made it."""
    middle = order.median(amounts)
    reached = sum(math.isfinite(amount) for amount in amounts)
    median = f"{middle:{form}}" if math.isfinite(middle) else "never"
    return f"{median} ({reached}/{len(amounts)})"


def _seeds_cell(summary: Summary, gain: float) -> str:
    difference = summary.final.difference
    if difference is None or len(difference.differences) < 2:
        return NOTHING
    deviation = spread(difference.differences).deviation
    assert deviation is not None  # of two or more
    return str(seeds_needed(deviation, gain))


def _optional(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value).replace("-", MINUS)

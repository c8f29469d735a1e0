"""The table of a comparison as text cells: a row a measure, a column a method."""

from __future__ import annotations

import math
import statistics as order
from collections.abc import Callable

from zeromean.study.conclusion import points
from zeromean.study.settings import Settings
from zeromean.study.statistics import CONFIDENCE, Spread
from zeromean.study.summary import Stage, Summary

NOTHING = "\N{EN DASH}"
Row = tuple[str, list[str]]


def rows(summaries: list[Summary], settings: Settings, target: float | None) -> list[Row]:
    """Labels with one cell a method, in the order of ``summaries``.

    Args:
        summaries: One a method.
        settings: Of the comparison.
        target: The accuracy (0 to 1) that the row of epochs is about; None leaves the row out.
    """

    def row(label: str, cell: Callable[[Summary], str]) -> Row:
        return label, [cell(summary) for summary in summaries]

    table = _stage_rows("Final accuracy", [summary.final for summary in summaries])
    if settings.early_epoch < settings.epochs:
        label = f"Accuracy at epoch {settings.early_epoch}"
        table += _stage_rows(label, [summary.early for summary in summaries])
    if target is not None:
        table.append(row(f"Epochs to {100 * target:.2f} %", _target_cell))
    return [
        *table,
        row("Seconds per epoch", lambda summary: f"{summary.seconds_per_epoch:.3g}"),
        row("Overhead", lambda summary: _optional(summary.overhead, "{:+.0%}")),
        row("Diverged runs", lambda summary: f"{summary.diverged} of {summary.runs}"),
    ]


def _stage_rows(label: str, stages: list[Stage]) -> list[Row]:
    differences = [stage.difference for stage in stages]
    return [
        (f"{label}, %", [_spread_cell(stage.accuracy) for stage in stages]),
        (
            "  difference, points",
            [NOTHING if one is None else points(one.mean) for one in differences],
        ),
        (
            f"  {CONFIDENCE:.0%} interval",
            [
                NOTHING
                if one is None or one.interval is None
                else f"{points(one.interval[0])}, {points(one.interval[1])}"
                for one in differences
            ],
        ),
        (
            "  p",
            [_optional(None if one is None else one.p_value, "{:.3g}") for one in differences],
        ),
    ]


def _spread_cell(accuracy: Spread | None) -> str:
    if accuracy is None:
        return NOTHING
    mean = f"{100 * accuracy.mean:.2f}"
    return mean if accuracy.deviation is None else f"{mean} ± {100 * accuracy.deviation:.2f}"


def _target_cell(summary: Summary) -> str:
    """The median, with misses as infinitely many epochs, and how many runs made it."""
    middle = order.median(summary.target_epochs)
    reached = sum(math.isfinite(epochs) for epochs in summary.target_epochs)
    median = f"{middle:g}" if math.isfinite(middle) else "never"
    return f"{median} ({reached}/{summary.runs})"


def _optional(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value).replace("-", "\N{MINUS SIGN}")

"""A plain sentence on what a comparison does, and does not, show."""

from __future__ import annotations

from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.task import ImageTask as Task
from zeromean.study.statistics import CONFIDENCE, FEWEST_FOR_INTERVAL, LEVEL, Paired
from zeromean.study.summary import Summary


def conclude(summary: Summary, baseline: Summary, task: Task) -> str:
    """One sentence on one method, first about the end, then about the early phase.

    Args:
        summary: The method's.
        baseline: That of the method it is compared with.
        task: What was learned.
    """
    final = summary.final.difference
    failures = _failures(summary, baseline)
    if final is None:
        return (
            f"{failures}Nothing can be concluded about {summary.method}: no pair of runs is left."
        )
    sentence = f"{failures}{_at_the_end(summary, final)}"
    early = summary.early.difference
    if early is not None and task.early_epoch < task.epochs:
        sentence += f"; {_early(early, task.early_epoch, summary.metric)}"
    return f"{sentence}."


def overview(tables: list[list[Summary]]) -> str:
    """One sentence on all comparisons of a study."""
    shown = {"better": 0, "worse": 0}
    methods = [summary for table in tables for summary in table if summary.method != BASELINE]
    for summary in methods:
        final = summary.final.difference
        if final is not None and _shown(final, summary.holm):
            shown["better" if summary.metric.gain(final.mean) > 0 else "worse"] += 1
    smallest = min(
        (
            _smallest(one.final.difference, one.family)
            for one in methods
            if one.final.difference is not None
        ),
        default=0.0,
    )
    few = f" So few seeds can show none: p cannot fall below {smallest:.3g}."
    return (
        f"Of {len(methods)} comparisons with {BASELINE}, {shown['better']} ended better, "
        f"{shown['worse']} worse, and {len(methods) - sum(shown.values())} show no difference, "
        f"corrected for their number.{few if smallest > LEVEL else ''}"
    )


def _failures(summary: Summary, baseline: Summary) -> str:
    failed = [one for one in (baseline, summary) if one.diverged]
    if not failed:
        return ""
    counts = " and ".join(f"{one.diverged} of {one.runs} {one.method} runs" for one in failed)
    return f"{counts} diverged, and only pairs without a diverged run are compared: "


def _at_the_end(summary: Summary, final: Paired) -> str:
    method, metric, pairs = summary.method, summary.metric, len(final.differences)
    if pairs == 1:
        return (
            f"One pair of runs cannot tell {method} from {BASELINE}: it ended at "
            f"{metric.difference(final.mean)} {metric.difference_unit}, and statistics need more"
            " seeds"
        )
    if not any(final.differences):
        return (
            f"No difference shown: {method} ended {metric.level} {BASELINE} "
            f"on each of {pairs} seeds"
        )
    direction = metric.better if metric.gain(final.mean) > 0 else metric.worse
    numbers = _numbers(final, metric, summary.holm if summary.family > 1 else None)
    if _shown(final, summary.holm):
        return f"{method} ended {direction} than {BASELINE}: {numbers}"
    smallest = _smallest(final, summary.family)
    if _one_sided(final) and smallest > LEVEL:
        corrected = f" after correction for {summary.family} comparisons"
        return (
            f"{method} ended {direction} than {BASELINE} on each of {pairs} seeds "
            f"({numbers}), too few to show a difference: "
            f"p cannot fall below {smallest:.3g}{corrected if summary.family > 1 else ''}"
        )
    return f"No difference shown between {method} and {BASELINE} at the end: {numbers}"


def _early(early: Paired, epoch: int, metric: Metric) -> str:
    where = f"a third of the way, after epoch {epoch}, it was"
    if early.p_value is None:
        return f"{where} at {metric.difference(early.mean)} {metric.difference_unit}"
    if not any(early.differences):
        return f"{where} exactly level"
    numbers = _numbers(early, metric, None)
    shown = _shown(early, early.p_value)
    if shown or _one_sided(early):
        pairs = len(early.differences)
        return (
            f"{where} {'ahead' if metric.gain(early.mean) > 0 else 'behind'} "
            f"{'' if shown else f'on each of {pairs} seeds '}({numbers})"
        )
    return f"{where} not shown to be ahead or behind ({numbers})"


def _shown(result: Paired, p_value: float | None) -> bool:
    """Interval and test agree; differences that are all the same have no interval to disagree."""
    if p_value is None or p_value > LEVEL:
        return False
    return result.interval is None or result.interval[0] > 0 or result.interval[1] < 0


def _smallest(result: Paired, family: int) -> float:
    """The smallest p-value that so many pairs can give, corrected for the comparisons."""
    return min(1.0, result.smallest_p * family)


def _one_sided(result: Paired) -> bool:
    return all(one > 0 for one in result.differences) or all(one < 0 for one in result.differences)


def _numbers(result: Paired, metric: Metric, holm: float | None) -> str:
    if result.interval is None:
        few = len(result.differences) < FEWEST_FOR_INTERVAL
        interval = "too few seeds for an interval" if few else "the same on each seed"
    else:
        low, high = result.interval
        interval = (
            f"{CONFIDENCE:.0%} interval {metric.difference(low)} to {metric.difference(high)}"
        )
    corrected = "" if holm is None else f", corrected {holm:.3g}"
    return (
        f"{metric.difference(result.mean)} {metric.difference_unit}, {interval}, "
        f"p = {result.p_value:.3g}{corrected}"
    )

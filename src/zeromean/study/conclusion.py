"""A plain sentence on what a comparison does, and does not, show."""

from __future__ import annotations

from zeromean.study.methods import BASELINE
from zeromean.study.settings import Settings
from zeromean.study.statistics import CONFIDENCE, LEVEL, Paired
from zeromean.study.summary import Summary


def conclude(summary: Summary, baseline: Summary, settings: Settings) -> str:
    """One sentence on one method, first about the end, then about the early phase.

    Args:
        summary: The method's.
        baseline: That of the method it is compared with.
        settings: Of the comparison.
    """
    final = summary.final.difference
    failures = _failures(summary, baseline)
    if final is None:
        return (
            f"{failures}Nothing can be concluded about {summary.method}: no pair of runs is left."
        )
    sentence = f"{failures}{_at_the_end(summary.method, final)}"
    early = summary.early.difference
    if early is not None and settings.early_epoch < settings.epochs:
        sentence += f"; {_early(early, settings.early_epoch)}"
    return f"{sentence}."


def points(difference: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def _failures(summary: Summary, baseline: Summary) -> str:
    failed = [one for one in (baseline, summary) if one.diverged]
    if not failed:
        return ""
    counts = " and ".join(f"{one.diverged} of {one.runs} {one.method} runs" for one in failed)
    return f"{counts} diverged, and only pairs without a diverged run are compared: "


def _at_the_end(method: str, final: Paired) -> str:
    pairs = len(final.differences)
    if pairs == 1:
        return (
            f"One pair of runs cannot tell {method} from {BASELINE}: it ended at "
            f"{points(final.mean)} points, and statistics need more seeds"
        )
    if not any(final.differences):
        return (
            f"No difference shown: {method} ended exactly as accurate as {BASELINE} "
            f"on each of {pairs} seeds"
        )
    direction = "more" if final.mean > 0 else "less"
    if _shown(final):
        return f"{method} ended {direction} accurate than {BASELINE}: {_numbers(final)}"
    if _one_sided(final) and final.smallest_p > LEVEL:
        return (
            f"{method} ended {direction} accurate than {BASELINE} on each of {pairs} seeds "
            f"({_numbers(final)}), too few to show a difference: "
            f"p cannot fall below {final.smallest_p:.3g}"
        )
    return f"No difference shown between {method} and {BASELINE} at the end: {_numbers(final)}"


def _early(early: Paired, epoch: int) -> str:
    where = f"a third of the way, after epoch {epoch}, it was"
    if early.p_value is None:
        return f"{where} at {points(early.mean)} points"
    if not any(early.differences):
        return f"{where} exactly level"
    if _shown(early) or _one_sided(early):
        pairs = len(early.differences)
        return (
            f"{where} {'ahead' if early.mean > 0 else 'behind'} "
            f"{'' if _shown(early) else f'on each of {pairs} seeds '}({_numbers(early)})"
        )
    return f"{where} not shown to be ahead or behind ({_numbers(early)})"


def _shown(result: Paired) -> bool:
    """Interval and test agree; differences that are all the same have no interval to disagree."""
    if result.p_value is None or result.p_value > LEVEL:
        return False
    return result.interval is None or result.interval[0] > 0 or result.interval[1] < 0


def _one_sided(result: Paired) -> bool:
    return all(one > 0 for one in result.differences) or all(one < 0 for one in result.differences)


def _numbers(result: Paired) -> str:
    if result.interval is None:
        interval = "the same on each seed"
    else:
        low, high = result.interval
        interval = f"{CONFIDENCE:.0%} interval {points(low)} to {points(high)}"
    return f"{points(result.mean)} points, {interval}, p = {result.p_value:.3g}"

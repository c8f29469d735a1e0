"""State in plain sentences what a comparison shows and what it does not."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from zeromean.study.report.statistics import (
    CONFIDENCE,
    LEVEL,
    MIN_PAIRS_FOR_INTERVAL,
    Paired,
    min_seeds,
)
from zeromean.study.report.summary import Summary
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import Metric
from zeromean.tables import amount

Verdict = Literal["helped", "harmed", "no difference shown", "too few seeds", "nothing to compare"]
TUNING_NOISE = (
    "The tuned values of each method were chosen by noisy scores. The differences, intervals and"
    " p-values take them as given, so they leave out the noise of that choice: other tuning seeds"
    " may choose other values and move the result."
)


@dataclass(frozen=True)
class Conclusion:
    """What a comparison shows about one method.

    Args:
        method: Label of the method.
        verdict: Answer in a few words, decided by the sign-flip test.
        text: Sentences with the numbers.
    """

    method: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.method}: {self.verdict}. {self.text}"


def conclude(summary: Summary, baseline: Summary, moment: str | None = None) -> Conclusion:
    """Draw the conclusion about one method, first at the end, then after a third of the training.

    Args:
        summary: Summary of the method.
        baseline: Summary of the baseline.
        moment: Time of the early scores, such as "epoch 4"; None if it is the end.
    """
    final = summary.final.difference
    sentences = _diverged(summary, baseline)
    if final is None:
        sentences.append("No pair of runs is left to compare.")
        return Conclusion(summary.method, "nothing to compare", " ".join(sentences))
    verdict = _verdict(summary, final)
    sentences += _at_the_end(summary, final, verdict)
    early = summary.early.difference
    if early is not None and moment is not None:
        sentences.append(_early(early, moment, summary))
    return Conclusion(summary.method, verdict, " ".join(sentences))


def overview(conclusions: list[list[Conclusion]]) -> list[str]:
    """Count the verdicts of each method over the comparisons of a study."""
    found: dict[str, Counter[str]] = {}
    for one in itertools.chain.from_iterable(conclusions):
        found.setdefault(one.method, Counter())[one.verdict] += 1
    return [
        f"{method}: {', '.join(f'{verdict} in {n}' for verdict, n in counts.items())}"
        f" of {amount(sum(counts.values()), 'comparison')}."
        for method, counts in found.items()
    ]


def _verdict(summary: Summary, final: Paired) -> Verdict:
    p_value = summary.corrected_p
    if p_value is not None and p_value <= LEVEL:
        return "helped" if summary.metric.gain(final.mean) > 0 else "harmed"
    smallest = final.smallest_p * summary.comparisons
    return "too few seeds" if smallest > LEVEL else "no difference shown"


def _diverged(summary: Summary, baseline: Summary) -> list[str]:
    counts = [
        f"{one.diverged} of {one.runs} {one.method} runs"
        for one in (baseline, summary)
        if one.diverged
    ]
    if not counts:
        return []
    return [f"{' and '.join(counts)} did not finish; only pairs of finished runs are compared."]


def _at_the_end(summary: Summary, final: Paired, verdict: Verdict) -> list[str]:
    metric, pairs = summary.metric, len(final.differences)
    corrected = summary.corrected_p if summary.corrected else None
    numbers = _numbers(final, metric, corrected)
    if not any(final.differences):
        sentences = [f"It ended {metric.level} {BASELINE} on {_seeds(pairs)}."]
    elif verdict in ("helped", "harmed"):
        direction = metric.better if verdict == "helped" else metric.worse
        sentences = [f"It ended {direction} than {BASELINE}: {numbers}."]
    else:
        same = ", with the same sign on every seed" if pairs > 1 and _one_sided(final) else ""
        sentences = [f"Difference to {BASELINE} at the end: {numbers}{same}."]
    sentences += _disagreement(final, verdict, corrected is not None)
    if verdict == "too few seeds":
        several = f" among {summary.comparisons} comparisons" if summary.comparisons > 1 else ""
        sentences.append(
            f"{_seeds(pairs).capitalize()} cannot show a difference{several}; at least"
            f" {min_seeds(summary.comparisons)} seeds can."
        )
    return sentences


def _disagreement(final: Paired, verdict: Verdict, corrected: bool) -> list[str]:
    """Say that the test decides if the interval disagrees with it."""
    if final.interval is None:
        return []
    excludes_zero = final.interval[0] > 0 or final.interval[1] < 0
    shown = verdict in ("helped", "harmed")
    if excludes_zero and not shown:
        after = " after correction" if corrected else ""
        return [
            "The interval, a bootstrap without correction, excludes 0, but the sign-flip test"
            f" decides, and its p is above {LEVEL:g}{after}."
        ]
    if shown and not excludes_zero:
        return ["The bootstrap interval includes 0, but the sign-flip test decides."]
    return []


def _early(early: Paired, moment: str, summary: Summary) -> str:
    start = f"A third of the way, after {moment}, it was"
    if not any(early.differences):
        return f"{start} exactly level."
    numbers = _numbers(early, summary.metric, None)
    if early.p_value is None:
        return f"{start} at {numbers}."
    if summary.comparisons > 1:
        numbers += ", not corrected"
    if early.p_value <= LEVEL:
        ahead = summary.metric.gain(early.mean) > 0
        return f"{start} {'ahead' if ahead else 'behind'} ({numbers})."
    return f"{start} not shown to be ahead or behind ({numbers})."


def _one_sided(result: Paired) -> bool:
    return all(one > 0 for one in result.differences) or all(one < 0 for one in result.differences)


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _numbers(result: Paired, metric: Metric, corrected_p: float | None) -> str:
    mean = f"{metric.difference(result.mean)} {metric.difference_unit}".strip()
    if result.p_value is None:
        return mean
    if result.interval is not None:
        low, high = map(metric.difference, result.interval)
        interval = f"{CONFIDENCE:.0%} interval {low} to {high}"
    elif len(result.differences) < MIN_PAIRS_FOR_INTERVAL:
        interval = "too few seeds for an interval"
    else:
        interval = "the same on each seed"
    corrected = "" if corrected_p is None else f", corrected {corrected_p:.3g}"
    return f"{mean}, {interval}, p = {result.p_value:.3g}{corrected}"

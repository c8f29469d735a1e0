"""What the runs of a comparison say, method by method: the columns of the table."""

from __future__ import annotations

import math
import statistics as order
from dataclasses import dataclass, replace

from zeromean.study.engine.results import Comparison, Results
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.records import Run
from zeromean.study.statistics import Paired, Spread, holm, paired, spread


@dataclass(frozen=True)
class Stage:
    """Scores after one epoch: a method's own and against the baseline's.

    Args:
        score: Over the runs that did not diverge; None if there is none.
        difference: Over the seeds on which neither this method nor the baseline diverged; None
            for the baseline itself or if there is no such seed.
    """

    score: Spread | None
    difference: Paired | None


@dataclass(frozen=True)
class Target:
    """What it took each run to reach the target, infinite for never."""

    epochs: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """One method of a comparison.

    Args:
        method: Its name.
        metric: What scores are.
        runs: How many ended.
        diverged: How many of them diverged.
        early: A third of the way, on the examples that are watched.
        final: At the end, on the test examples.
        gap: Training score minus test score at the end, over the runs that did not diverge.
        target: What it took to reach the baseline's best mean score.
        seconds_per_epoch: Median over the seeds.
        overhead: Median over the seeds of the ratio of seconds to the baseline's, minus 1; None
            for the baseline.
        holm: The final p-value corrected for all comparisons of the study; None without one.
        family: How many p-values the study has at the end.
    """

    method: str
    metric: Metric
    runs: int
    diverged: int
    early: Stage
    final: Stage
    gap: Spread | None
    target: Target
    seconds_per_epoch: float
    overhead: float | None
    holm: float | None = None
    family: int = 1


def target_score(comparison: Comparison) -> float | None:
    """The baseline's best mean score after an epoch; None if all its runs diverged."""
    runs = [run for run in comparison.of(BASELINE).values() if not run.diverged]
    if not runs:
        return None
    means = [
        order.fmean(run.epochs[index].score for run in runs)
        for index in range(comparison.task.epochs)
    ]
    return max(means) if comparison.metric.higher_is_better else min(means)


def summarize(results: Results) -> list[list[Summary]]:
    """For each comparison one summary a method, with p-values corrected over all of them."""
    tables = [_summarize(comparison) for comparison in results.comparisons]
    p_values = [p for table in tables for one in table if (p := _final_p(one)) is not None]
    corrected = iter(holm(p_values))
    return [
        [
            one
            if _final_p(one) is None
            else replace(one, holm=next(corrected), family=len(p_values))
            for one in table
        ]
        for table in tables
    ]


def _final_p(summary: Summary) -> float | None:
    return None if summary.final.difference is None else summary.final.difference.p_value


def _summarize(comparison: Comparison) -> list[Summary]:
    target = target_score(comparison)
    baseline = comparison.of(BASELINE)
    early = comparison.task.early_epoch
    summaries = []
    for method in comparison.methods:
        runs = comparison.of(method)
        sound = {seed: run for seed, run in runs.items() if not run.diverged}
        against = {} if method == BASELINE else baseline
        reached = [_reached(run, target, comparison.metric) for run in runs.values()]
        gaps = [
            run.train_score - run.test_score
            for run in sound.values()
            if run.train_score is not None and run.test_score is not None
        ]
        summaries.append(
            Summary(
                method=method,
                metric=comparison.metric,
                runs=len(runs),
                diverged=len(runs) - len(sound),
                early=_stage(_scores(runs, early), _scores(against, early)),
                final=_stage(_scores(runs), _scores(against)),
                gap=spread(gaps) if gaps else None,
                target=Target(*zip(*reached, strict=True)),
                seconds_per_epoch=order.median(run.seconds_per_epoch for run in runs.values()),
                overhead=None
                if method == BASELINE
                else order.median(_ratio(run, baseline[seed]) for seed, run in runs.items()) - 1,
            )
        )
    return summaries


def _scores(runs: dict[int, Run], epoch: int | None = None) -> dict[int, float]:
    """By seed, of the runs that did not diverge: after an epoch, or the test score at the end."""
    found = {}
    for seed, run in runs.items():
        if run.diverged:  # it may have no such epoch
            continue
        score = run.test_score if epoch is None else run.epochs[epoch - 1].score
        if score is not None:
            found[seed] = score
    return found


def _stage(scores: dict[int, float], baseline: dict[int, float]) -> Stage:
    pairs = [(score, baseline[seed]) for seed, score in scores.items() if seed in baseline]
    return Stage(
        score=spread(list(scores.values())) if scores else None,
        difference=paired(*zip(*pairs, strict=True)) if pairs else None,
    )


def _ratio(run: Run, baseline: Run) -> float:
    """Of the seconds, epoch by epoch, since both ran each epoch close together; their median."""
    # One of them is shorter if it diverged.
    pairs = zip(run.epochs, baseline.epochs, strict=False)
    return order.median(one.seconds / other.seconds for one, other in pairs)


def _reached(run: Run, target: float | None, metric: Metric) -> tuple[float, float]:
    """Epochs and seconds until the target."""
    if target is None or run.diverged:
        return math.inf, math.inf
    seconds = 0.0
    for epoch in run.epochs:
        seconds += epoch.seconds
        if metric.reaches(epoch.score, target):
            return epoch.number, seconds
    return math.inf, math.inf

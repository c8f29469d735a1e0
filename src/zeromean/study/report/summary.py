"""Summarize the runs of a comparison, one summary per method."""

from __future__ import annotations

import math
import statistics as order
from collections.abc import Iterable
from dataclasses import dataclass, replace

from zeromean.study.engine.results import Comparison, Results
from zeromean.study.report.statistics import Paired, Spread, holm, paired, spread
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.records import Run

# The clock and other programs disturb shorter epochs by more than centering costs.
MIN_TIMED_SECONDS = 0.1


@dataclass(frozen=True)
class Stage:
    """Scores of a method at one point of training.

    Args:
        score: Mean and deviation over the runs that finished with a finite score here; None if
            none did.
        difference: Paired difference to the baseline over the seeds on which both did; None for
            the baseline or without such a seed.
    """

    score: Spread | None
    difference: Paired | None


@dataclass(frozen=True)
class TargetCost:
    """Training that each run needed to reach the target score; infinity if it never did."""

    epochs: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """Results of one method in a comparison.

    Args:
        method: Label of the method.
        metric: Metric of the scores.
        runs: Number of runs.
        diverged: Number of runs that diverged or failed.
        early: Scores after a third of the epochs, on the watched examples.
        final: Scores at the end, on the test examples.
        gap: Training score minus test score at the end; None without a training score.
        target: Cost of reaching the baseline's best mean score.
        seconds_per_epoch: Median over the runs that have an epoch; None if none has.
        overhead: Median ratio of seconds to the baseline's, minus 1; None for the baseline and for
            epochs shorter than ``MIN_TIMED_SECONDS``.
        corrected_p: Final p-value corrected for all comparisons of the study.
        comparisons: Number of p-values that the correction accounts for; without a p-value, of all
            comparisons of the study that have a pair of runs.
    """

    method: str
    metric: Metric
    runs: int
    diverged: int
    early: Stage
    final: Stage
    gap: Spread | None
    target: TargetCost
    seconds_per_epoch: float | None
    overhead: float | None
    corrected_p: float | None = None
    comparisons: int = 1

    @property
    def corrected(self) -> bool:
        """Whether the correction accounts for other p-values too."""
        return self.corrected_p is not None and self.comparisons > 1


def target_score(comparison: Comparison) -> float | None:
    """Return the best mean score of the baseline after any epoch; None if all its runs diverged."""
    runs = comparison.finished(BASELINE).values()
    # The mean of equal scores is that score, which fmean may miss by a rounding error.
    means = [
        order.mean(run.epochs[index].score for run in runs)
        for index in range(comparison.epochs if runs else 0)
    ]
    finite = filter(math.isfinite, means)
    best = max if comparison.metric.higher_is_better else min
    return best(finite, default=None)


def summarize(results: Results) -> list[list[Summary]]:
    """Return one list of summaries per comparison, with p-values corrected over the study."""
    tables = [_summarize(comparison) for comparison in results.comparisons]
    p_values = [p for table in tables for one in table if (p := _final_p(one)) is not None]
    corrected = iter(holm(p_values))
    compared = sum(one.final.difference is not None for table in tables for one in table)
    return [
        [
            replace(one, comparisons=max(1, compared))
            if _final_p(one) is None
            else replace(one, corrected_p=next(corrected), comparisons=len(p_values))
            for one in table
        ]
        for table in tables
    ]


def _final_p(summary: Summary) -> float | None:
    return None if summary.final.difference is None else summary.final.difference.p_value


def _summarize(comparison: Comparison) -> list[Summary]:
    target = target_score(comparison)
    baseline, early = comparison.of(BASELINE), comparison.early_epoch
    summaries = []
    for method in comparison.methods:
        runs = comparison.of(method)
        finished = comparison.finished(method)
        control = {} if method == BASELINE else comparison.finished(BASELINE)
        if comparison.repeated:  # copies of one pair are one pair
            control = {seed: control[seed] for seed in sorted(control.keys() & finished)[:1]}
        reached = [_cost_to_target(run, target, comparison.metric) for run in runs.values()]
        gaps = [
            run.train_score - run.test_score
            for run in finished.values()
            if run.train_score is not None and run.test_score is not None
        ]
        summaries.append(
            Summary(
                method=method,
                metric=comparison.metric,
                runs=len(runs),
                diverged=len(runs) - len(finished),
                early=_stage(_scores(finished, early), _scores(control, early)),
                final=_stage(_scores(finished), _scores(control)),
                gap=spread(gaps) if gaps else None,
                target=TargetCost(*zip(*reached, strict=True)),
                seconds_per_epoch=_seconds_per_epoch(runs.values()),
                overhead=None if method == BASELINE else _overhead(runs, baseline),
            )
        )
    return summaries


def _scores(runs: dict[int, Run], epoch: int | None = None) -> dict[int, float]:
    """Return the finite scores of runs by seed: after an epoch, or on the test set at the end."""
    scores = {
        seed: run.test_score if epoch is None else run.epochs[epoch - 1].score
        for seed, run in runs.items()
    }
    return {
        seed: score for seed, score in scores.items() if score is not None and math.isfinite(score)
    }


def _stage(scores: dict[int, float], baseline: dict[int, float]) -> Stage:
    pairs = [(score, baseline[seed]) for seed, score in scores.items() if seed in baseline]
    return Stage(
        score=spread(list(scores.values())) if scores else None,
        difference=paired(*zip(*pairs, strict=True)) if pairs else None,
    )


def _seconds_per_epoch(runs: Iterable[Run]) -> float | None:
    # A program that fails at once has no epoch.
    seconds = [run.seconds_per_epoch for run in runs if run.epochs]
    return order.median(seconds) if seconds else None


def _overhead(runs: dict[int, Run], baseline: dict[int, Run]) -> float | None:
    seconds = _seconds_per_epoch([*runs.values(), *baseline.values()])
    if seconds is None or seconds < MIN_TIMED_SECONDS:
        return None
    pairs = [(run, baseline[seed]) for seed, run in runs.items() if seed in baseline]
    ratios = [ratio for pair in pairs if (ratio := _ratio(*pair)) is not None]
    return order.median(ratios) - 1 if ratios else None


def _ratio(run: Run, baseline: Run) -> float | None:
    """Return the median ratio of seconds; both runs made each epoch one right after the other."""
    # A diverged run is shorter. A program's epoch takes no time if its lines arrive together.
    pairs = zip(run.epochs, baseline.epochs, strict=False)
    ratios = [one.seconds / other.seconds for one, other in pairs if other.seconds]
    return order.median(ratios) if ratios else None


def _cost_to_target(run: Run, target: float | None, metric: Metric) -> tuple[float, float]:
    """Return the epochs and seconds until the run reaches the target."""
    if target is None or run.diverged:
        return math.inf, math.inf
    seconds = 0.0
    for epoch in run.epochs:
        seconds += epoch.seconds
        if metric.reaches(epoch.score, target):
            return epoch.number, seconds
    return math.inf, math.inf

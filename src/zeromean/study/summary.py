"""What the runs of a comparison say, method by method: the rows of the table."""

from __future__ import annotations

import math
import statistics as order
from dataclasses import dataclass

from zeromean.study.compare import Comparison
from zeromean.study.methods import BASELINE
from zeromean.study.statistics import Paired, Spread, paired, spread
from zeromean.study.train import Run


@dataclass(frozen=True)
class Stage:
    """Test accuracies (0 to 1) after one epoch: a method's own and against the baseline's.

    Args:
        accuracy: Over the runs that did not diverge; None if there is none.
        difference: Over the seeds on which neither this method nor the baseline diverged; None
            for the baseline itself or if there is no such seed.
    """

    accuracy: Spread | None
    difference: Paired | None


@dataclass(frozen=True)
class Summary:
    """One method of a comparison.

    Args:
        method: Its name.
        runs: How many ended.
        diverged: How many of them diverged.
        early: A third of the way.
        final: At the end.
        target_epochs: Epochs that each run took to the target accuracy, infinite for never.
        seconds_per_epoch: Median over the seeds.
        overhead: Median over the seeds of the ratio of seconds to the baseline's, minus 1; None
            for the baseline.
    """

    method: str
    runs: int
    diverged: int
    early: Stage
    final: Stage
    target_epochs: tuple[float, ...]
    seconds_per_epoch: float
    overhead: float | None


def target_accuracy(comparison: Comparison) -> float | None:
    """The baseline's best mean test accuracy; None if all its runs diverged."""
    runs = [run for run in comparison.of(BASELINE).values() if not run.diverged]
    if not runs:
        return None
    return max(
        order.fmean(run.epochs[index].test_accuracy for run in runs)
        for index in range(comparison.settings.epochs)
    )


def summarize(comparison: Comparison) -> list[Summary]:
    """One summary a method, in the order of the settings."""
    target = target_accuracy(comparison)
    baseline = comparison.of(BASELINE)
    summaries = []
    for method in comparison.settings.methods:
        runs = comparison.of(method)
        overhead = None
        if method != BASELINE:
            overhead = order.median(_ratio(run, baseline[seed]) for seed, run in runs.items()) - 1
        summaries.append(
            Summary(
                method=method,
                runs=len(runs),
                diverged=sum(run.diverged for run in runs.values()),
                early=_stage(
                    runs, None if method == BASELINE else baseline, comparison.settings.early_epoch
                ),
                final=_stage(
                    runs, None if method == BASELINE else baseline, comparison.settings.epochs
                ),
                target_epochs=tuple(_epochs_to(run, target) for run in runs.values()),
                seconds_per_epoch=order.median(run.seconds_per_epoch for run in runs.values()),
                overhead=overhead,
            )
        )
    return summaries


def _stage(runs: dict[int, Run], baseline: dict[int, Run] | None, epoch: int) -> Stage:
    def accuracy(run: Run) -> float:
        return run.epochs[epoch - 1].test_accuracy

    sound = {seed: run for seed, run in runs.items() if not run.diverged}
    pairs = [
        (accuracy(run), accuracy(baseline[seed]))
        for seed, run in sound.items()
        if baseline is not None and not baseline[seed].diverged
    ]
    return Stage(
        accuracy=spread([accuracy(run) for run in sound.values()]) if sound else None,
        difference=paired(*zip(*pairs, strict=True)) if pairs else None,
    )


def _ratio(run: Run, baseline: Run) -> float:
    """Of the seconds, epoch by epoch, since both ran each epoch close together; their median."""
    # One of them is shorter if it diverged.
    pairs = zip(run.epochs, baseline.epochs, strict=False)
    return order.median(one.seconds / other.seconds for one, other in pairs)


def _epochs_to(run: Run, target: float | None) -> float:
    if target is None or run.diverged:
        return math.inf
    reached = (epoch.number for epoch in run.epochs if epoch.test_accuracy >= target)
    return next(reached, math.inf)

"""Estimate what a study costs on this machine from the measured time of a few steps."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zeromean.study.engine.executors import with_threads
from zeromean.study.engine.results import missing_runs
from zeromean.study.spec.records import FINAL, Candidate, Key
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Job
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.training import Training, TrainingTask
from zeromean.tables import amount

# Each measurement takes about this long, but has no more steps than this.
MEASUREMENTS = 3
MEASURED_SECONDS = 0.2
MAX_STEPS = 50
# If the first step takes longer than this, it is the only one that is measured.
SLOW_SECONDS = 10.0
# The time of a step does not depend on the rate.
ANY_RATE = 1e-3


@dataclass(frozen=True)
class Speed:
    """Seconds per training step, and per scored example."""

    step: float
    example: float


@dataclass(frozen=True)
class Cost:
    """Cost of the runs that a folder does not hold yet.

    Args:
        runs: Number of runs, tuning included.
        epochs: Number of epochs of all runs.
        steps: Steps per epoch.
        speeds: Speed of each method.
        seconds: Expected time of all runs.
    """

    runs: int
    epochs: int
    steps: int
    speeds: Mapping[str, Speed]
    seconds: float

    @property
    def duration(self) -> str:
        """The expected time in words."""
        return f"about {duration(self.seconds)}"

    def text(self, jobs: int) -> str:
        """Return one line for the user."""
        if not self.runs:
            return "Nothing is left to train."
        by_speed = sorted((speed.step, method) for method, speed in self.speeds.items())
        (fast, fastest), (slow, slowest) = by_speed[0], by_speed[-1]
        return (
            f"{amount(self.runs, 'run')}, {amount(self.epochs, 'epoch')} of"
            f" {amount(self.steps, 'step')}; a step took {fast:.3g} s ({fastest}) to"
            f" {slow:.3g} s ({slowest}) on this machine:"
            f" {self.duration}{f' in {jobs} processes' if jobs > 1 else ''}"
        )


def estimate(study: Study, problem: Problem, out: Path, jobs: int = 1) -> Cost:
    """Train each method for a few steps, and count what is left.

    Args:
        study: Study with one task and one optimizer.
        problem: The loaded task.
        out: Folder of the study, which need not exist.
        jobs: Number of processes that share the runs.
    """
    (task,) = study.trained_tasks
    left, steps = missing_runs(study, out), problem.steps(task.batch_size)
    few = _with_fast_fit(problem, task.batch_size) if left else problem
    speeds = {
        method: measure(study, few, method, jobs)
        for method in dict.fromkeys(key.method for key in left)
    }
    times = []
    for key in left:
        speed, epochs = speeds[key.method], study.epochs(key)
        scored = epochs * len(problem.watched.targets)
        if key.trial == FINAL:
            scored += len(problem.train.targets)
            if problem.watched is not problem.test:
                scored += len(problem.test.targets)
        times.append(epochs * steps * speed.step + scored * speed.example)
    seconds = max(sum(times) / jobs, max(times, default=0.0))
    return Cost(len(left), sum(map(study.epochs, left)), steps, speeds, seconds)


def measure(study: Study, problem: Problem, method: str, jobs: int = 1) -> Speed:
    """Measure real training steps: the median of a few measurements.

    Args:
        study: Study with one task and one optimizer.
        problem: The loaded task.
        method: Label of the method.
        jobs: Number of processes that share the processor.
    """
    with with_threads(study.threads or max(1, torch.get_num_threads() // jobs)):
        single = _measurements(study, problem, method, 1)
        first = next(single)
        if first.step > SLOW_SECONDS:
            return first
        steps = int(MEASURED_SECONDS / next(single).step)
        measurements = _measurements(study, problem, method, max(1, min(MAX_STEPS, steps)))
        found = list(itertools.islice(measurements, MEASUREMENTS))
    return Speed(
        statistics.median(one.step for one in found),
        statistics.median(one.example for one in found),
    )


def _measurements(study: Study, problem: Problem, method: str, steps: int) -> Iterator[Speed]:
    """Yield the speed of epochs with a number of steps, each scored on one batch."""
    (task,), (optimizer,) = study.trained_tasks, study.optimizers
    scored = _first(problem.watched, task.batch_size)
    train = _first(problem.train, steps * task.batch_size)
    part = replace(problem, train=train, watched=scored, test=scored, of_seed=None)
    key = Key(task.label, optimizer.label, method, seed=0)
    job = Job(key, Candidate(ANY_RATE), study.method(method), optimizer, task.epochs)
    training = Training(TrainingTask(study, task, part), job)
    while True:
        started = time.perf_counter()
        step = training.advance().seconds
        rest = time.perf_counter() - started - step
        yield Speed(step / part.steps(task.batch_size), rest / len(scored.targets))


def _with_fast_fit(problem: Problem, count: int) -> Problem:
    """Return the problem with a preprocessing that is fitted once, to the first ``count`` inputs.

    The time of a step does not depend on the inputs to which it is fitted.
    """
    preprocess = problem.fit(problem.train.inputs[:count])
    return replace(problem, fit=lambda inputs: preprocess)


def _first(examples: Examples, count: int) -> Examples:
    return Examples(examples.inputs[:count], examples.targets[:count])


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits.

    Example:
        >>> duration(90), duration(9000), duration(7e6)
        ('90 seconds', '2.5 hours', '2.7 months')
    """
    for unit, size, limit in (
        ("seconds", 1, 100),
        ("minutes", 60, 100),
        ("hours", 3600, 48),
        ("days", 86_400, 60),
        ("months", 86_400 * 365.25 / 12, 24),
    ):
        if seconds < limit * size:
            return _duration(seconds / size, unit)
    return _duration(seconds / (86_400 * 365.25), "years")


def _duration(number: float, unit: str) -> str:
    text = f"{number:.1f}".removesuffix(".0") if 1 <= number < 10 else f"{max(number, 1):.0f}"
    return f"{text} {unit.removesuffix('s') if text == '1' else unit}"

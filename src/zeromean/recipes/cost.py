"""What a study will cost on this machine: what is left to train, and measured seconds a step."""

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

# Steps are timed so many times, each time as many as take so long, but no more than that.
TIMES = 3
ENOUGH_SECONDS = 0.2
MOST_STEPS = 50
# The first step takes longer than the others; where it takes that long it has to do.
SLOW_SECONDS = 10.0
# A step takes the same time at each.
ANY_RATE = 1e-3


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step, and of scoring one example."""

    step: float
    example: float


@dataclass(frozen=True)
class Cost:
    """Of what a folder does not hold yet of a study of one task.

    Args:
        runs, epochs: How many are left, tuning included.
        steps: Of an epoch.
        speeds: Of each method.
        seconds: Altogether, run after run.
    """

    runs: int
    epochs: int
    steps: int
    speeds: Mapping[str, Speed]
    seconds: float

    @property
    def duration(self) -> str:
        """In words."""
        return f"about {duration(self.seconds)}"

    def text(self, jobs: int) -> str:
        """One line: what is left, how fast it goes, how long it will take."""
        if not self.runs:
            return "Nothing is left to train."
        slowest = sorted((speed.step, method) for method, speed in self.speeds.items())
        first, last = slowest[0], slowest[-1]
        return (
            f"{amount(self.runs, 'run')}, {amount(self.epochs, 'epoch')} of"
            f" {amount(self.steps, 'step')}; a step took {first[0]:.3g} s ({first[1]}) to"
            f" {last[0]:.3g} s ({last[1]}) on this machine:"
            f" {self.duration}{f' in {jobs} processes' if jobs > 1 else ''}"
        )


def cost(study: Study, problem: Problem, out: Path, jobs: int = 1) -> Cost:
    """Trains each method a few steps, and counts what is left.

    Args:
        study: Of one task and one optimizer.
        problem: The task, loaded.
        out: Folder of the study, which need not exist.
        jobs: Processes side by side, which share the work.
    """
    (task,) = study.tasks
    left = missing_runs(study, out)
    few = _fitted_to_few(problem, task.batch_size) if left else problem
    speeds = {}
    for method in dict.fromkeys(key.method for key in left):
        speeds[method] = measured(study, few, method, jobs)
    steps = problem.steps(task.batch_size)
    seconds = 0.0
    for key in left:
        speed, epochs = speeds[key.method], study.epochs(key)
        scored = epochs * len(problem.watched.targets)
        if key.trial == FINAL:
            scored += len(problem.train.targets) + len(problem.test.targets)
        seconds += epochs * steps * speed.step + scored * speed.example
    epochs = sum(map(study.epochs, left))
    return Cost(len(left), epochs, steps, speeds, seconds / jobs)


def measured(study: Study, problem: Problem, method: str, jobs: int = 1) -> Speed:
    """Real steps of a run, by the engine itself: the median of a few times.

    Args:
        study, problem, method: What is trained.
        jobs: Processes that share the processor.
    """
    with with_threads(study.threads or max(1, torch.get_num_threads() // jobs)):
        one_by_one = _timed(study, problem, method, 1)
        first = next(one_by_one)
        if first.step > SLOW_SECONDS:
            return first
        steps = int(ENOUGH_SECONDS / next(one_by_one).step)
        steps = max(1, min(MOST_STEPS, steps))
        found = list(itertools.islice(_timed(study, problem, method, steps), TIMES))
    return Speed(
        statistics.median(one.step for one in found),
        statistics.median(one.example for one in found),
    )


def _timed(study: Study, problem: Problem, method: str, steps: int) -> Iterator[Speed]:
    """Epochs of so many steps, one after the other, each scored on a batch."""
    (spec,), (optimizer,) = study.tasks, study.optimizers
    scored = _first(problem.watched, spec.batch_size)
    part = replace(
        problem, train=_first(problem.train, steps * spec.batch_size), watched=scored, test=scored
    )
    task = TrainingTask(study, spec, part)
    key = Key(spec.label, optimizer.label, method, 0)
    while True:
        job = Job(key, Candidate(ANY_RATE), study.method(method), optimizer, study.epochs(key))
        training = Training(task, job)
        while not training.ended:
            started = time.perf_counter()
            step = training.advance().seconds
            rest = time.perf_counter() - started - step
            yield Speed(step / part.steps(spec.batch_size), rest / len(scored.targets))


def _fitted_to_few(problem: Problem, count: int) -> Problem:
    """What is done to inputs takes as long whatever it was fitted to, once, for all methods."""
    prepare = problem.fit(problem.train.inputs[:count])
    return replace(problem, fit=lambda inputs: prepare)


def _first(examples: Examples, count: int) -> Examples:
    return Examples(examples.inputs[:count], examples.targets[:count])


def amount(number: int, what: str) -> str:
    """Such as ``1 run`` or ``1,200 runs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """In words that fit an estimate.

    Example:
        >>> [duration(one) for one in (20, 400, 9000, 2e5, 3e7, 3e8)]
        ['20 seconds', '6.7 minutes', '2.5 hours', '2.3 days', '11 months', '9.5 years']
    """
    for unit, size, most in (
        ("seconds", 1, 100),
        ("minutes", 60, 100),
        ("hours", 3600, 48),
        ("days", 86_400, 60),
        ("months", 86_400 * 365.25 / 12, 24),
    ):
        if seconds < most * size:
            return _amount(seconds / size, unit)
    return _amount(seconds / (86_400 * 365.25), "years")


def _amount(number: float, unit: str) -> str:
    text = f"{number:.1f}".removesuffix(".0") if 1 <= number < 10 else f"{max(number, 1):.0f}"
    return f"{text} {unit.removesuffix('s') if text == '1' else unit}"

"""The order of a study's runs: which can begin, and with which values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from zeromean.study.engine.search import choice, outcomes, plan
from zeromean.study.engine.store import Store
from zeromean.study.spec.records import FINAL, Candidate, Key, Run
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Job, TaskInfo

Pair = tuple[str, str, str]


class Group(NamedTuple):
    """Runs that one process trains in turns, epoch by epoch.

    All methods of a task, an optimizer and a seed are one group, so that whatever slows the machine
    slows all of them. All seeds of a tuning trial are another.

    Args:
        name: A name within the study.
        jobs: The runs that are missing.
    """

    name: str
    jobs: tuple[Job, ...]

    @property
    def task(self) -> str:
        """Label of the task."""
        return self.jobs[0].key.task


class Scheduler:
    """Hands out a study's pending runs.

    Args:
        study: The study.
        infos: What is known of its tasks, by their labels.
        store: The database, which holds the runs that have ended.
    """

    def __init__(self, study: Study, infos: Mapping[str, TaskInfo], store: Store) -> None:
        self.study, self.infos = study, infos
        self._ended = store.keys()
        self._runs = store.path.parent / "runs"
        self._trials: dict[Pair, list[Run]] = {}
        if study.tuning is not None:
            for run in store.runs():
                self._add_trial(run)
        self._choices: dict[Pair, Candidate] = {}
        self._finals = list(final_groups(study))

    def end(self, run: Run) -> None:
        """Record that a run has ended."""
        self._ended.add(run.key)
        self._add_trial(run)

    def next_group(self, running: Collection[str]) -> Group | None:
        """Return a group that can begin now, or None.

        Args:
            running: Names of the groups under way.
        """
        while self._finals and self._ended.issuperset(self._finals[0][1]):
            self._finals.pop(0)
        for name, keys in itertools.chain(self._trial_groups(), self._finals):
            if name in running:
                continue
            missing = [key for key in keys if key not in self._ended]
            candidates = [self._candidate(key) for key in missing]
            jobs = [
                self._job(key, candidate)
                for key, candidate in zip(missing, candidates, strict=True)
                if candidate is not None
            ]
            # Methods that wait for their tuning would not take turns with the others.
            if jobs and len(jobs) == len(missing):
                return Group(name, tuple(jobs))
        return None

    def _add_trial(self, run: Run) -> None:
        if run.key.trial != FINAL:
            self._trials.setdefault(run.key[:3], []).append(run)

    def _trial_groups(self) -> list[tuple[str, tuple[Key, ...]]]:
        if self.study.tuning is None:
            return []
        seeds = tuning_seeds(self.study)
        groups = []
        for number, pair in enumerate(pairs(self.study)):
            if pair in self._choices:
                continue
            candidates, complete = self._plan(pair)
            if complete:
                done = outcomes(self.study, self._trials[pair], *pair)
                self._choices[pair] = choice(done.values(), self.infos[pair[0]].tuning_metric)
                continue
            groups.append(
                [
                    (f"trial-{number}-{trial}", tuple(Key(*pair, seed, trial) for seed in seeds))
                    for trial in range(len(candidates))
                ]
            )
        return _interleaved(groups)

    def _plan(self, pair: Pair) -> tuple[list[Candidate], bool]:
        assert self.study.tuning is not None
        done = outcomes(self.study, self._trials.get(pair, ()), *pair)
        return plan(self.study.tuning, done, self.infos[pair[0]].tuning_metric)

    def _candidate(self, key: Key) -> Candidate | None:
        """Return the values of a run, or None while they depend on tuning that has not ended."""
        if self.study.tuning is None:
            return customary(self.study, key)
        if key.trial == FINAL:
            return self._choices.get(key[:3])
        return self._plan(key[:3])[0][key.trial]

    def _job(self, key: Key, candidate: Candidate) -> Job:
        study = self.study
        return Job(
            key,
            candidate,
            study.method(key.method),
            study.optimizer(key.optimizer),
            study.epochs(key),
            self._runs / run_name(study, key),
        )


def run_name(study: Study, key: Key) -> str:
    """Return the name of a run for files: numbers of its cell and method, seed and trial."""
    cell = study.cells.index((key.task, key.optimizer))
    return f"{cell}-{study.method_labels.index(key.method)}-{key.seed}-{key.trial}"


def pairs(study: Study) -> list[Pair]:
    """Return task, optimizer and method of everything that is trained."""
    return [
        (task, optimizer, method)
        for task, optimizer in study.cells
        for method in study.trained_methods(optimizer)
    ]


def tuning_seeds(study: Study) -> range:
    """Return the seeds of each trial, which the comparison does not use."""
    return range(study.seeds, study.seeds + (study.tuning.seeds if study.tuning else 0))


def final_groups(study: Study) -> list[tuple[str, tuple[Key, ...]]]:
    """Return name and keys of each group of the comparison, in the order of their start."""
    return _interleaved(
        [
            [
                (
                    f"final-{number}-{seed}",
                    tuple(
                        Key(task, optimizer, method, seed)
                        for method in study.trained_methods(optimizer)
                    ),
                )
                for seed in range(study.seeds)
            ]
            for number, (task, optimizer) in enumerate(study.cells)
        ]
    )


def planned_keys(study: Study) -> list[Key]:
    """Return the keys of all runs that are known before any training."""
    tuning = study.tuning
    trials = range(tuning.trial_count if tuning is not None else 0)
    return [
        *(
            Key(*pair, seed, trial)
            for pair, trial, seed in itertools.product(pairs(study), trials, tuning_seeds(study))
        ),
        *(key for _, keys in final_groups(study) for key in keys),
    ]


def customary(study: Study, key: Key) -> Candidate:
    """Return the values of a run of a study that tunes nothing."""
    optimizer, model = study.optimizer(key.optimizer), getattr(study.task(key.task), "model", None)
    if study.lr is not None:
        return Candidate(study.lr)
    if model is not None:
        return Candidate(optimizer.rate(model))
    return Candidate(math.nan if optimizer.lr is None else optimizer.lr)


def _interleaved(
    lists: list[list[tuple[str, tuple[Key, ...]]]],
) -> list[tuple[str, tuple[Key, ...]]]:
    """Return the first entry of each list, then the second of each, and so on."""
    turns: Iterator[tuple[tuple[str, tuple[Key, ...]] | None, ...]]
    turns = itertools.zip_longest(*lists)
    return [one for turn in turns for one in turn if one is not None]

"""Decide which runs of a study can begin, and with which values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

from zeromean.study.engine.search import choice, outcomes, plan
from zeromean.study.engine.store import Store
from zeromean.study.spec.records import FINAL, Candidate, Key, Run
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Job, TaskInfo

Pair = tuple[str, str, str]
Entry = TypeVar("Entry")


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
        infos: Information on the tasks, by their labels.
        store: The database, which holds the runs that have ended.
    """

    def __init__(self, study: Study, infos: Mapping[str, TaskInfo], store: Store) -> None:
        self.study, self.infos = study, infos
        self._ended = store.keys()
        self._runs = store.path.parent / "runs"
        self._trials: dict[Pair, dict[int, list[Run]]] = {}
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
            running: Names of the groups that are running.
        """
        while self._finals and self._ended.issuperset(self._finals[0][1]):
            self._finals.pop(0)
        finals = ((name, {key: self._final(key) for key in keys}) for name, keys in self._finals)
        for name, candidates in itertools.chain(self._trial_groups(), finals):
            if name in running:
                continue
            missing = [key for key in candidates if key not in self._ended]
            jobs = [self._job(key, one) for key in missing if (one := candidates[key]) is not None]
            # Methods that wait for their tuning would not take turns with the others.
            if jobs and len(jobs) == len(missing):
                return Group(name, tuple(jobs))
        return None

    def _add_trial(self, run: Run) -> None:
        if run.key.trial != FINAL:
            self._trials.setdefault(run.key[:3], {}).setdefault(run.key.trial, []).append(run)

    def _trial_groups(self) -> list[tuple[str, dict[Key, Candidate | None]]]:
        """Return the name and values of each known trial, for pairs whose tuning has not ended."""
        tuning = self.study.tuning
        if tuning is None:
            return []
        seeds = tuning_seeds(self.study)
        groups: list[list[tuple[str, dict[Key, Candidate | None]]]] = []
        for number, pair in enumerate(pairs(self.study)):
            if pair in self._choices:
                continue
            metric = self.infos[pair[0]].tuning_metric
            done = outcomes(self._trials.get(pair, {}), tuning.seeds)
            candidates, complete = plan(tuning, done, metric)
            if complete:
                self._choices[pair] = choice(done.values(), metric)
                continue
            groups.append(
                [
                    (f"trial-{number}-{trial}", {Key(*pair, seed, trial): one for seed in seeds})
                    for trial, one in enumerate(candidates)
                ]
            )
        return _interleaved(groups)

    def _final(self, key: Key) -> Candidate | None:
        """Return the values of a run of the comparison, or None until its tuning has ended."""
        if self.study.tuning is None:
            return customary(self.study, key)
        return self._choices.get(key[:3])

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
    tuning = study.tuning
    return range(tuning.first_seed, tuning.first_seed + tuning.seeds) if tuning else range(0)


def final_seeds(study: Study) -> list[int]:
    """Return the seeds of the comparison: 0, 1, ... without those of the trials."""
    free = (seed for seed in itertools.count() if seed not in tuning_seeds(study))
    return list(itertools.islice(free, study.seeds))


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
                for seed in final_seeds(study)
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


def _interleaved(lists: list[list[Entry]]) -> list[Entry]:
    """Return the first entry of each list, then the second of each, and so on."""
    return [one for turn in itertools.zip_longest(*lists) for one in turn if one is not None]

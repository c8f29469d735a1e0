"""What one process does for a study: claims a unit, trains it, keeps its runs, until all are kept.

Any number of processes may work on one folder. Only a claimed unit is trained, and whether it is
still needed is asked of the database once it is claimed, so no run is made twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from zeromean.study import checkpoint
from zeromean.study.metric import Metric
from zeromean.study.networks.build import listed
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.problem import Problem
from zeromean.study.progress import Watcher
from zeromean.study.results import check_same_data
from zeromean.study.run import FINAL, Candidate, Key
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.tasks.load import load
from zeromean.study.train import Training
from zeromean.study.tuning import choice, outcomes, proposal
from zeromean.study.units import Folder, Unit, units

# Between looks at what other processes have done.
PATIENCE_SECONDS = 0.2


def work(
    study: Study,
    folder: Folder,
    store: Store,
    watcher: Watcher,
    problem_of: Callable[[str], Problem] | None = None,
) -> None:
    """Returns when every run of the study is kept, by this process or by others.

    Args:
        study: What to do.
        folder: Where; the database exists.
        store: The open database.
        watcher: Told of this process's epochs and runs.
        problem_of: The loaded task of a label; by default each is loaded when first needed.
    """
    problem_of = problem_of or cache(partial(_load, study, store))
    while pending := _pending(study, store):
        idle = True
        for unit in pending:
            with folder.claim(unit) as mine:
                if not (mine and (keys := _missing(unit, store.keys()))):
                    continue
                problem = problem_of(keys[0].task)
                candidates = _candidates(study, store, problem.metric, keys)
                if candidates is None:
                    continue
                trainings = [
                    Training(problem, study, key, candidate)
                    for key, candidate in zip(keys, candidates, strict=True)
                ]
                _train(study, folder, store, watcher, unit, trainings)
                idle = False
        if idle:
            time.sleep(PATIENCE_SECONDS)


def _load(study: Study, store: Store, label: str) -> Problem:
    problem = load(study, study.task(label))
    check_same_data({label: problem}, store)
    return problem


def _pending(study: Study, store: Store) -> list[Unit]:
    kept = store.keys()
    return [unit for unit in units(study) if _missing(unit, kept)]


def _missing(unit: Unit, kept: set[Key]) -> list[Key]:
    return [key for key in unit.keys if key not in kept]


def _train(
    study: Study,
    folder: Folder,
    store: Store,
    watcher: Watcher,
    unit: Unit,
    trainings: list[Training],
) -> None:
    """Trains the runs epoch by epoch in turns, each from where it was."""
    for training in trainings:
        state = checkpoint.load(folder.checkpoint(unit, training.key))
        if state is not None:
            training.load_state_dict(state)
    for number in range(study.epochs(trainings[0].key)):
        first = number % len(trainings)
        for training in trainings[first:] + trainings[:first]:
            if training.ended or len(training.epochs) > number:
                continue
            epoch = training.advance()
            path = folder.checkpoint(unit, training.key)
            if not training.ended:
                checkpoint.save(path, training.state_dict())
                watcher.on_epoch(training.key, epoch)
                continue
            run = training.run()
            store.add(run)
            checkpoint.remove(path)
            watcher.on_epoch(training.key, epoch)
            watcher.on_run(run)


def _candidates(
    study: Study, store: Store, metric: Metric, keys: Sequence[Key]
) -> list[Candidate] | None:
    """What each run is to use; None while tuning that it depends on is not done."""
    if study.tuning is None:
        return [_customary(study, key) for key in keys]
    runs = store.runs()
    found = []
    for key in keys:
        done = outcomes(study, runs, key.task, key.optimizer, key.method)
        if key.trial == FINAL:
            found.append(choice(done, metric))
        else:
            found.append(proposal(study.tuning, key.trial, done, metric))
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else None


def _customary(study: Study, key: Key) -> Candidate:
    if study.lr is not None:
        return Candidate(study.lr)
    model = listed(study.task(key.task).model)
    return Candidate(OptimizerChoice.parse(key.optimizer).rate(model))


def use_threads(count: int) -> None:
    """Results depend on the number of threads, which is the study's, not the process's."""
    torch.set_num_threads(count)

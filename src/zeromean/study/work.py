"""What one process does for a study: claims a unit, trains it, keeps its runs, until all are kept.

Any number of processes may work on one folder. Only a claimed unit is trained, and whether it is
still needed is asked of the database once it is claimed, so no run is made twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

import torch

from zeromean.study import checkpoint
from zeromean.study.optimizers import OPTIMIZERS
from zeromean.study.problem import Problem
from zeromean.study.progress import Watcher
from zeromean.study.run import Candidate, Key
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.tasks.load import load
from zeromean.study.train import Training
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
    problem_of = problem_of or cache(lambda label: load(study, study.task(label)))
    while pending := _pending(study, store):
        idle = True
        for unit in pending:
            with folder.claim(unit) as mine:
                if mine and (keys := _missing(unit, store.keys())):
                    _train(study, folder, store, watcher, problem_of(keys[0].task), unit, keys)
                    idle = False
        if idle:
            time.sleep(PATIENCE_SECONDS)


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
    problem: Problem,
    unit: Unit,
    keys: Sequence[Key],
) -> None:
    """Trains the runs epoch by epoch in turns, each from where it was."""
    trainings = []
    for key in keys:
        training = Training(problem, study, key, candidate(study, key))
        state = checkpoint.load(folder.checkpoint(unit, key))
        if state is not None:
            training.load_state_dict(state)
        trainings.append(training)
    epochs = study.task(keys[0].task).epochs
    for number in range(epochs):
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


def candidate(study: Study, key: Key) -> Candidate:
    """The learning rate of a run."""
    if study.lr is not None:
        return Candidate(study.lr)
    return Candidate(OPTIMIZERS[key.optimizer].learning_rates[study.task(key.task).model])


def use_threads(count: int) -> None:
    """Results depend on the number of threads, which is the study's, not the process's."""
    torch.set_num_threads(count)

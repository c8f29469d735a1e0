"""Where a study's orders are given out, and what comes of them is kept.

Any number of desks may be open on one folder, in as many processes. Only a claimed unit is given
out, and whether it is still needed is asked of the database once it is claimed, so no run is made
twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from zeromean.study.engine import checkpoint
from zeromean.study.engine.side_by_side import Order, Step
from zeromean.study.engine.units import Folder, Unit, units
from zeromean.study.facts import decode_facts
from zeromean.study.metric import METRICS
from zeromean.study.networks.build import listed
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.run import FINAL, Candidate, Key
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.tuning import choice, outcomes, proposal
from zeromean.study.watchers.progress import Watcher


class Desk:
    """Gives out a study's work and keeps its results.

    Args:
        study: What is to be done.
        folder: Where; the database exists.
        store: The open database.
        watcher: Told of the epochs and runs that this desk keeps.
    """

    def __init__(self, study: Study, folder: Folder, store: Store, watcher: Watcher) -> None:
        self.study = study
        self.folder = folder
        self.store = store
        self.watcher = watcher
        self.facts = decode_facts(store.facts["tasks"])
        stacked = {label: facts.stacked for label, facts in self.facts.items()}
        self._units = units(study, stacked)

    def pending(self) -> list[Unit]:
        """Units of which runs are missing, whoever trains them at this moment."""
        kept = self.store.keys()
        return [unit for unit in self._units if _missing(unit, kept)]

    @contextmanager
    def take(self, unit: Unit) -> Iterator[Order | None]:
        """The unit's missing runs, nobody else's until the block ends.

        None where another has them, or where they wait for the end of tuning.
        """
        with self.folder.claim(unit) as mine:
            keys = _missing(unit, self.store.keys()) if mine else ()
            candidates = self._candidates(keys)
            if not keys or candidates is None:
                yield None
                return
            states = {
                place: state
                for place in range(len(unit.stacks))
                if (state := checkpoint.load(self.folder.checkpoint(unit, place))) is not None
            }
            yield Order(unit.stacks, dict(zip(keys, candidates, strict=True)), states)

    def keep(self, unit: Unit, step: Step) -> None:
        """Writes what an epoch of one of the unit's stacks came to, and tells the watcher."""
        path = self.folder.checkpoint(unit, step.place)
        if step.state is not None:
            checkpoint.save(path, step.state)
        self.store.add(*step.runs)
        if step.state is None:
            checkpoint.remove(path)
        for key, epoch in step.epochs:
            self.watcher.on_epoch(key, epoch)
        for run in step.runs:
            self.watcher.on_run(run)

    def _candidates(self, keys: Sequence[Key]) -> tuple[Candidate, ...] | None:
        """What each run is to use; None while tuning that it depends on is not done."""
        study = self.study
        if study.tuning is None:
            return tuple(_customary(study, key) for key in keys)
        runs = self.store.runs()
        found = []
        for key in keys:
            metric = METRICS[self.facts[key.task].metric]
            done = outcomes(study, runs, key.task, key.optimizer, key.method)
            if key.trial == FINAL:
                found.append(choice(done, metric))
            else:
                found.append(proposal(study.tuning, key.trial, done, metric))
        known = [one for one in found if one is not None]
        return tuple(known) if len(known) == len(found) else None


def _missing(unit: Unit, kept: set[Key]) -> tuple[Key, ...]:
    return tuple(key for key in unit.keys if key not in kept)


def _customary(study: Study, key: Key) -> Candidate:
    if study.lr is not None:
        return Candidate(study.lr)
    model = listed(study.task(key.task).model)
    return Candidate(OptimizerChoice.parse(key.optimizer).rate(model))

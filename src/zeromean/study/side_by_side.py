"""The runs of an order, trained epoch by epoch in turns, wherever the order went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from zeromean.study.devices import ALONE, Alone
from zeromean.study.problem import Problem
from zeromean.study.run import Candidate, Epoch, Key, Run
from zeromean.study.study import Study
from zeromean.study.train import Training


class Order(NamedTuple):
    """Runs of one unit that are to be trained, and all that is needed to.

    Args:
        keys: Which runs.
        candidates: What each uses.
        states: Where those that were begun before go on; taken out as they do.
    """

    keys: tuple[Key, ...]
    candidates: tuple[Candidate, ...]
    states: dict[Key, dict[str, Any]]

    @property
    def task(self) -> str:
        """The label of the task, which is that of all runs."""
        return self.keys[0].task


class Step(NamedTuple):
    """What an epoch of a run came to.

    Args:
        key: Which run.
        epoch: The epoch's record.
        state: What the run goes on from; None of one that has ended.
        run: The run, if that was its end.
    """

    key: Key
    epoch: Epoch
    state: dict[str, Any] | None
    run: Run | None


def train(problem: Problem, study: Study, order: Order, devices: Alone = ALONE) -> Iterator[Step]:
    """Trains the runs, each from where it was; what an epoch came to is told at its end.

    A state is that of a network that trains on as soon as the next step is asked for: save it
    before.
    """
    trainings = []
    for key, candidate in zip(order.keys, order.candidates, strict=True):
        training = Training(problem, study, key, candidate, devices)
        state = order.states.pop(key, None)
        if state is not None:
            training.load_state_dict(state)
        trainings.append(training)
    for number in range(study.epochs(order.keys[0])):
        first = number % len(trainings)
        for training in trainings[first:] + trainings[:first]:
            if training.ended or len(training.epochs) > number:
                continue
            epoch = training.advance()
            if training.ended:
                yield Step(training.key, epoch, None, training.run())
            else:
                yield Step(training.key, epoch, training.state_dict(), None)

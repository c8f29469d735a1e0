"""The runs of an order, trained epoch by epoch in turns, wherever the order went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from zeromean.study.engine.devices import ALONE, Alone
from zeromean.study.engine.stacked import Stack
from zeromean.study.engine.train import Training
from zeromean.study.problem import Problem
from zeromean.study.run import Candidate, Epoch, Key, Run
from zeromean.study.study import Study


class Order(NamedTuple):
    """Runs of one unit that are to be trained, and all that is needed to.

    Args:
        stacks: Those of the unit.
        candidates: Which of their runs, and what each uses.
        states: Where stacks that were begun before go on, by their place; taken out as they do.
    """

    stacks: tuple[tuple[Key, ...], ...]
    candidates: dict[Key, Candidate]
    states: dict[int, dict[str, Any]]

    @property
    def task(self) -> str:
        """The label of the task, which is that of all runs."""
        return self.stacks[0][0].task


class Step(NamedTuple):
    """What an epoch of a stack came to.

    Args:
        place: Of the stack in its unit.
        epochs: The epoch's record of each of its runs.
        state: What the stack goes on from, with runs that just diverged, so that the others go on
            from there as they would have gone on at once; None where all have ended.
        runs: Those that ended.
    """

    place: int
    epochs: tuple[tuple[Key, Epoch], ...]
    state: dict[str, Any] | None
    runs: tuple[Run, ...]


def train(problem: Problem, study: Study, order: Order, devices: Alone = ALONE) -> Iterator[Step]:
    """Trains the runs, each from where it was; what an epoch came to is told at its end.

    A state is that of networks that train on as soon as the next step is asked for: save it
    before.
    """
    turns: list[tuple[int, Stack]] = []
    for place, keys in enumerate(order.stacks):
        trainings = [
            Training(problem.for_seed(key.seed), study, key, order.candidates[key], devices)
            for key in keys
            if key in order.candidates
        ]
        if trainings:
            stack = Stack(trainings, together=len(keys) > 1 and devices.count == 1)
            if (state := order.states.pop(place, None)) is not None:
                stack.load_state_dict(state)
            turns.append((place, stack))
    for number in range(study.epochs(order.stacks[0][0])):
        first = number % len(turns)
        for place, stack in turns[first:] + turns[:first]:
            behind = stack.epochs <= number and not stack.ended
            trained = stack.advance() if behind else []
            runs = stack.ended_runs()
            if trained or runs:
                epochs = tuple((one.key, one.epochs[-1]) for one in trained)
                state = None if stack.ended else stack.state_dict()
                yield Step(place, epochs, state, runs)

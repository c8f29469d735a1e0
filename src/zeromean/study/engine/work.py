"""What one process does for a study: takes an order, trains it, keeps its runs, until all are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch

from zeromean.study.engine.desk import Desk
from zeromean.study.engine.side_by_side import Order, Step
from zeromean.study.facts import Facts, check_same_data
from zeromean.study.problem import Problem
from zeromean.study.study import Study
from zeromean.study.tasks.load import load

# Between looks at what other processes have done.
PATIENCE_SECONDS = 0.2


def work(desk: Desk, train: Callable[[Order], Iterator[Step]]) -> None:
    """Returns when every run of the study is kept, from this desk or from others.

    Args:
        desk: Gives out the orders and keeps what comes of them.
        train: Trains an order.
    """
    while pending := desk.pending():
        idle = True
        for unit in pending:
            with desk.take(unit) as order:
                if order is None:
                    continue
                for step in train(order):
                    desk.keep(unit, step)
                idle = False
        if idle:
            time.sleep(PATIENCE_SECONDS)


def loader(study: Study, facts: Mapping[str, Facts]) -> Callable[[str], Problem]:
    """What gives the loaded task of a label, each loaded when first asked for.

    Args:
        study: What the tasks belong to.
        facts: On the tasks, as the study began with them; others are refused.
    """

    @cache
    def problem_of(label: str) -> Problem:
        problem = load(study, study.task(label))
        check_same_data({label: problem}, facts)
        return problem

    return problem_of


def use_threads(count: int) -> None:
    """Results depend on the number of threads, which is the study's, not the process's."""
    torch.set_num_threads(count)

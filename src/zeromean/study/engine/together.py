"""A study whose runs are each trained by several processes, as torchrun starts them.

The first process conducts the study as one alone does. Before it trains an order it sends it to
the others, which train the same and keep nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zeromean.errors import ZeromeanError, warn
from zeromean.reparam.nnn import NaturalLinear
from zeromean.study.engine.devices import Together
from zeromean.study.engine.side_by_side import Order, Step, train
from zeromean.study.engine.train import Training
from zeromean.study.engine.work import loader, use_threads
from zeromean.study.facts import decode_facts
from zeromean.study.problem import Examples, Problem
from zeromean.study.results import Results
from zeromean.study.run import Candidate, Key
from zeromean.study.settings import SettingError
from zeromean.study.study import Study


class Leader:
    """The first process's part.

    Args:
        study: What is conducted.
        problems: The loaded tasks by their labels.
        facts: On them.
        devices: Of all processes.

    Raises:
        ZeromeanError: Some method or task cannot be trained by several processes.
    """

    def __init__(
        self,
        study: Study,
        problems: Mapping[str, Problem],
        facts: str,
        devices: Together,
    ) -> None:
        self._study, self._problems, self._devices = study, problems, devices
        for task in study.tasks:
            if task.batch_size % devices.count:
                raise SettingError(
                    "batch_size",
                    f"batch_size = {task.batch_size} of {task.label} in {devices.count} processes",
                    "as many examples for each",
                    f"make it a multiple of {devices.count}",
                    "start as many processes as divide it",
                )
        devices.send(facts)
        _try_out(study, problems, devices)

    def begin(self, threads: int) -> None:
        """Has the others wait for orders."""
        self._devices.send(threads)

    def train(self, order: Order) -> Iterator[Step]:
        """Trains the order together with the others."""
        self._devices.send(order)
        yield from train(self._problems[order.task], self._study, order, self._devices)

    def end(self, results: Results) -> None:
        """Tells the others how it ended."""
        self._devices.send(None)
        self._devices.send(results)
        self._devices.meet()


def follow(study: Study, devices: Together) -> Results:
    """The other processes' part: trains what the first one sends, until it sends how it ended.

    Raises:
        ZeromeanError: This process has other data than the first one, or lost the others.
    """
    facts = decode_facts(devices.receive())
    problem_of = loader(study, facts)
    _try_out(study, {task.label: problem_of(task.label) for task in study.tasks}, devices)
    use_threads(devices.receive())
    try:
        while (order := devices.receive()) is not None:
            for _ in train(problem_of(order.task), study, order, devices):
                pass
    except RuntimeError as error:  # as torch tells of other processes that ended
        raise ZeromeanError(
            f"process {devices.rank} of {devices.count}, which cannot go on"
            f" ({type(error).__name__}: {error})",
            "all processes to the end",
            "read what the others said; the same command goes on",
        ) from error
    results: Results = devices.receive()
    devices.meet()
    return results


def _try_out(study: Study, problems: Mapping[str, Problem], devices: Together) -> None:
    """Takes one step with every method, so that what cannot be shows before any training."""
    for label, problem in problems.items():
        size = study.task(label).batch_size
        inputs, targets = problem.train
        brief = replace(problem, train=Examples(inputs[:size], targets[:size]))
        small = replace(brief, watched=brief.train, test=brief.train)
        batch_norms = False
        for method in study.methods:
            key = Key(label, study.optimizers[0], method, 0)
            training = Training(small, study, key, Candidate(1e-6), devices)
            _refuse(training.network, key, devices)
            try:
                training.advance()
                training.state_dict()
            except (RuntimeError, NotImplementedError, ValueError) as error:
                raise SettingError(
                    "methods",
                    f"method {method} with {label}, which {devices.count} processes cannot train"
                    f" ({type(error).__name__}: {error})",
                    "networks and methods that they can",
                    "leave that method out",
                    "train without shard or in one process",
                ) from error

            batch_norms |= any(isinstance(one, _BatchNorm) for one in training.network.modules())
        if devices.leads and batch_norms:
            warn(
                f"{label}: batch normalization sees each process's part of a batch alone, one"
                f" example in {devices.count}, so the results are not those of one process"
            )


def _refuse(network: nn.Module, key: Key, devices: Together) -> None:
    if any(isinstance(one, NaturalLinear) for one in network.modules()):
        raise SettingError(
            "methods",
            f"method {key.method} in {devices.count} processes",
            "one: each would remember its own inputs, which a checkpoint does not hold",
            "leave that method out",
            "train in one process",
        )

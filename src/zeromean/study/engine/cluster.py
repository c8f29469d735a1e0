"""A study's orders, trained by the machines of a Ray cluster.

One process, here, has the study's folder and writes it; machines of the cluster need zeromean and
the data, and no disk in common. An order goes out with all that it goes on from, and each epoch
comes back, so what a machine takes along when it dies is no more than the epochs under way.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from zeromean.errors import ZeromeanError
from zeromean.study import environment
from zeromean.study.engine import checkpoint
from zeromean.study.engine.desk import Desk
from zeromean.study.engine.side_by_side import Order, Step, train
from zeromean.study.engine.units import Unit
from zeromean.study.engine.work import PATIENCE_SECONDS, loader, use_threads
from zeromean.study.extras import of_extra
from zeromean.study.facts import decode_facts
from zeromean.study.problem import Problem
from zeromean.study.study import Study

# To find out that nobody listens at an address; Ray itself would ask for minutes.
CONNECT_SECONDS = 5.0
# Of a unit, one after another without an epoch in between: then it is the unit that does it.
MOST_LOSSES = 3
# Epochs that may wait here to be kept before their machine waits too.
WAITING_STEPS = 4


class Brief(NamedTuple):
    """What a machine has to know besides an order.

    Args:
        study: What is done.
        facts: On its tasks, as the database holds them.
        threads: CPU threads of a run.
        folder: That relative names of files start from, where the machine has it.
    """

    study: Study
    facts: str
    threads: int
    folder: str


class Refused(NamedTuple):
    """What a machine refuses, on its way here."""

    error: ZeromeanError


@dataclass
class _Sent:
    """An order under way.

    Args:
        unit: Whose runs it trains.
        claim: That is released when it comes back.
        environment: Of the machine that it went to, once that is known.
    """

    unit: Unit
    claim: ExitStack
    environment: dict[str, str] = field(default_factory=dict)


def work_on_cluster(desk: Desk, address: str, threads: int) -> None:
    """Returns when every run of the study is kept, from this desk or from others.

    As many orders are under way as the cluster has processors for, ``threads`` for each, or GPUs
    where the study's device is one. Machines may come and go.

    Args:
        desk: Gives out the orders and keeps what comes of them.
        address: HOST:PORT of the cluster, of which this machine is one.
        threads: CPU threads of a run.

    Raises:
        ZeromeanError: There is no such cluster, or a machine refused an order.
    """
    with _connected(address) as ray:
        Conveyor(ray, desk, address, threads).run()


class Conveyor:
    """Sends orders out and takes epochs in.

    Args:
        ray: The module, connected.
        desk: Gives out the orders and keeps what comes of them.
        address: Of the cluster, for messages.
        threads: CPU threads of a run.
    """

    def __init__(self, ray: Any, desk: Desk, address: str, threads: int) -> None:
        self._ray, self._desk = ray, desk
        gpus = torch.device(desk.study.device).type == "cuda"
        self._needs = {"CPU": threads, "GPU": 1} if gpus else {"CPU": threads}
        if self._room() == 0:
            needed = " and ".join(f"{count} {name}" for name, count in self._needs.items())
            raise ZeromeanError(
                f"the Ray cluster at {address}, none of whose machines has {needed}",
                "a machine that can train a run",
                "add one, or give the study fewer threads",
            )
        brief = Brief(desk.study, desk.store.facts["tasks"], threads, os.getcwd())
        self._brief = ray.put(brief)
        self._serve = ray.remote(
            num_cpus=threads,
            num_gpus=self._needs.get("GPU", 0),
            max_retries=0,  # not from its beginning: from the last epoch that came back
            scheduling_strategy="SPREAD",
            _generator_backpressure_num_objects=WAITING_STEPS,
        )(_serve)
        self._sent: dict[Any, _Sent] = {}
        self._losses: Counter[Unit] = Counter()

    def run(self) -> None:
        """Until every run is kept."""
        try:
            while pending := self._desk.pending():
                self._send(pending)
                self._receive()
        finally:
            for sent in self._sent.values():
                sent.claim.close()

    def _room(self) -> int:
        """How many orders the cluster can train at once."""
        machines = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        return sum(
            min(int(has.get(name, 0) // count) for name, count in self._needs.items())
            for has in machines
        )

    def _send(self, pending: list[Unit]) -> None:
        """Sends as many more as there is room for."""
        underway = {sent.unit for sent in self._sent.values()}
        waiting = (unit for unit in pending if unit not in underway)
        room = max(1, self._room())  # with none, for the machine that is hoped for
        while len(self._sent) < room and (unit := next(waiting, None)) is not None:
            claim = ExitStack()
            order = claim.enter_context(self._desk.take(unit))
            if order is None:
                claim.close()
            else:
                self._sent[self._serve.remote(self._brief, order)] = _Sent(unit, claim)

    def _receive(self) -> None:
        """Keeps what comes back, until an order has or nothing more does for a while."""
        if not self._sent:
            time.sleep(PATIENCE_SECONDS)  # others are at work
            return
        orders = len(self._sent)
        while len(self._sent) == orders:
            ready, _ = self._ray.wait([*self._sent], timeout=PATIENCE_SECONDS)
            if not ready:
                return
            self._take_in(ready[0])

    def _take_in(self, stream: Any) -> None:
        """What one order has to say next."""
        sent = self._sent[stream]
        try:
            said = self._ray.get(next(stream))
        except StopIteration:
            self._end(stream)
        except self._ray.exceptions.RayTaskError as error:
            raise ZeromeanError(
                f"{sent.unit.keys[0].task} on a machine of the cluster, where it raised"
                f" {type(error.cause).__name__} ({error.cause})",
                "machines with the same zeromean and what the task needs",
                "mend that",
            ) from error
        except self._ray.exceptions.RayError as error:
            self._end(stream)
            self._losses[sent.unit] += 1
            if self._losses[sent.unit] == MOST_LOSSES:
                raise ZeromeanError(
                    f"{sent.unit.keys[0].task}, seed {sent.unit.keys[0].seed}, lost"
                    f" {MOST_LOSSES} times without an epoch in between"
                    f" ({type(error).__name__})",
                    "machines that train until their runs have ended",
                    "look into the cluster's logs, for memory first; the same command goes on",
                ) from error
        else:
            if isinstance(said, Refused):
                raise said.error
            if isinstance(said, Step):
                self._losses.pop(sent.unit, None)
                self._desk.store.begin_session(sent.environment)
                self._desk.keep(sent.unit, said)
            else:
                sent.environment = said

    def _end(self, stream: Any) -> None:
        self._sent.pop(stream).claim.close()


def _serve(brief: Brief, order: Order) -> Iterator[dict[str, str] | Step | Refused]:
    """On a machine of the cluster: says what that is, then trains."""
    with suppress(OSError):
        os.chdir(brief.folder)
    use_threads(brief.threads)
    try:
        yield environment.describe(brief.study.device)
        problem = _loader(brief.study, brief.facts)(order.task)
        for step in train(problem, brief.study, order):
            yield step._replace(state=checkpoint.on_cpu(step.state))
    except ZeromeanError as error:
        error.got += f", on the machine {socket.gethostname()}"
        yield Refused(error)


@lru_cache(maxsize=1)
def _loader(study: Study, facts: str) -> Callable[[str], Problem]:
    """Kept between the orders that a process gets one after another."""
    return loader(study, decode_facts(facts))


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    # What Ray would report of its users goes nowhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _imported(address)
    if ray.is_initialized():
        raise ZeromeanError(
            "a process that is connected to Ray already", "one that is not", "ray.shutdown() first"
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, str(error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported(address: str) -> Any:
    with of_extra("ray", f"--ray {address}"):
        import ray
    return ray


def check_address(address: str) -> None:
    """Refuses an address where nobody listens.

    Raises:
        ZeromeanError: Nobody does, or Ray is not installed.
    """
    ray = _imported(address)
    host, _, port = address.rpartition(":")
    if not (host and "/" not in host and port.isdecimal()):
        raise _no_cluster(address, "not of the form HOST:PORT")
    if host in ("localhost", "127.0.0.1", "::1"):
        host = ray.util.get_node_ip_address()  # as Ray will understand it
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> ZeromeanError:
    return ZeromeanError(
        f"--ray {address}, where no cluster can be reached ({why})",
        "the HOST:PORT that `ray start --head` told, on a machine of the cluster",
        "start one, or correct the address",
    )

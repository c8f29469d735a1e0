"""Train a study's runs on the machines of a Ray cluster.

Only this process writes to the study's folder. The machines need zeromean and the data, but no
shared disk: each group is sent with its checkpoints, and each epoch comes back with its state. If a
machine fails, only the epochs that it was training are lost.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import torch

from zeromean.errors import ZeromeanError, needs_extra
from zeromean.study.engine import checkpoint, environment
from zeromean.study.engine.checkpoint import Checkpoint
from zeromean.study.engine.executors import Event, Plan, loader, train_in_turns
from zeromean.study.engine.scheduler import Group
from zeromean.study.spec.records import Key
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Task, TaskInfo

# Ray itself would try for minutes to reach an address without a server.
CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.2
# A group that is lost this often without an epoch in between is probably the cause itself.
MAX_LOSSES = 3
# Number of epochs of a group that may wait to be read before its machine pauses.
MAX_WAITING_EPOCHS = 4


class Message(NamedTuple):
    """The information that a machine needs to train any group.

    Args:
        study: The study.
        infos: Information on the tasks, as JSON.
        threads: Number of CPU threads per run.
        folder: Working folder, which relative paths start from; used if the machine has it.
    """

    study: Study
    infos: bytes
    threads: int
    folder: str


class RayCluster:
    """Trains as many groups at once as the cluster has room for; machines may join and leave.

    Args:
        plan: Plan of the study to train.
        address: HOST:PORT of the cluster, which this machine must belong to.

    Raises:
        ZeromeanError: On entering, there is no such cluster, or none of its machines has enough
            resources for a run.
    """

    def __init__(self, plan: Plan, address: str) -> None:
        self._plan, self._address = plan, address
        self._needs = {"CPU": plan.threads}
        if torch.device(plan.study.device).type == "cuda":
            self._needs["GPU"] = 1
        self._groups: dict[Any, Group] = {}
        self._losses: Counter[str] = Counter()

    def __enter__(self) -> RayCluster:
        self._ray = _connect(self._address)
        try:
            self._prepare()
        except BaseException:  # the next run in this process connects again
            self._ray.shutdown()
            raise
        return self

    def _prepare(self) -> None:
        if self._room() == 0:
            needed = " and ".join(f"{count} {name}" for name, count in self._needs.items())
            raise ZeromeanError(
                f"no machine of the Ray cluster at {self._address} has {needed}",
                "Add such a machine, or give the study fewer threads",
            )
        infos = msgspec.json.encode(self._plan.infos)
        message = Message(self._plan.study, infos, self._plan.threads, os.getcwd())
        self._message = self._ray.put(message)
        self._train = self._ray.remote(
            num_cpus=self._plan.threads,
            num_gpus=self._needs.get("GPU", 0),
            max_retries=0,  # Ray would start the group again from its first epoch
            scheduling_strategy="SPREAD",
            _generator_backpressure_num_objects=MAX_WAITING_EPOCHS,
        )(_train)

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()

    @property
    def slots(self) -> int:
        """Number of groups that the cluster can train at once; at least 1."""
        return max(1, self._room())

    def submit(self, group: Group) -> None:
        """Send a group to a machine."""
        states = self._plan.checkpoints(group)
        self._groups[self._train.remote(self._message, group, states)] = group

    def next_events(self) -> list[Event]:
        """Wait for an event of any machine.

        Raises:
            ZeromeanError: A machine raised an error, or a group was lost too often.
        """
        ready, _ = self._ray.wait([*self._groups], timeout=POLL_SECONDS)
        if not ready:
            return []
        stream, group = ready[0], self._groups[ready[0]]
        try:
            event: Event = self._ray.get(next(stream))
        except StopIteration:
            del self._groups[stream]
            return [Event(group.name)]
        except self._ray.exceptions.RayTaskError as error:
            raise ZeromeanError(
                f"{group.task} raised {type(error.cause).__name__} ({error.cause}) on a machine of"
                " the cluster",
                "Install the same zeromean, and what the task needs, on every machine",
            ) from error
        except self._ray.exceptions.RayError as error:
            del self._groups[stream]
            self._losses[group.name] += 1
            if self._losses[group.name] == MAX_LOSSES:
                raise ZeromeanError(
                    f"{group.task}, seed {group.jobs[0].key.seed}, was lost {MAX_LOSSES} times"
                    f" without an epoch in between ({type(error).__name__})",
                    "Check the cluster's logs, first for a lack of memory, and give the same"
                    " command again",
                ) from error
            return [Event(group.name)]  # the scheduler will submit it again
        self._losses.pop(group.name, None)
        return [event]

    def _room(self) -> int:
        resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            min(int(available.get(name, 0) // count) for name, count in self._needs.items())
            for available in resources
        )


def _train(message: Message, group: Group, states: dict[Key, Checkpoint]) -> Iterator[Event]:
    """Train a group on a machine of the cluster."""
    with suppress(OSError):
        os.chdir(message.folder)
    torch.set_num_threads(message.threads)
    try:
        here = environment.describe(message.study.device)
        task = _loader(message)(group.task)
        for key, turns, progress in train_in_turns(task, group, states):
            state = checkpoint.to_cpu(progress.state)
            yield Event(group.name, key, turns, progress._replace(state=state), here)
    except ZeromeanError as error:
        yield Event(
            group.name,
            error=ZeromeanError(
                f"{error.problem}, on the machine {socket.gethostname()}", error.fix
            ),
        )


@lru_cache(maxsize=1)
def _loader(message: Message) -> Callable[[str], Task]:
    """Return a loader of tasks that is kept between the groups of a process."""
    return loader(message.study, msgspec.json.decode(message.infos, type=dict[str, TaskInfo]))


def _connect(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send usage statistics
    ray = _import_ray(address)
    if ray.is_initialized():
        raise ZeromeanError(
            "this process is already connected to a Ray cluster", "Call ray.shutdown() first"
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, str(error)) from error
    return ray


def _import_ray(address: str) -> Any:
    with needs_extra("ray", f"--ray {address}"):
        import ray
    return ray


def check_address(address: str) -> None:
    """Check that a server listens at an address.

    Raises:
        ZeromeanError: No server listens there, the address is not of the form HOST:PORT, or Ray is
            not installed.
    """
    ray = _import_ray(address)
    host, _, port = address.rpartition(":")
    if not (host and "/" not in host and port.isdecimal()):
        raise _no_cluster(address, "it is not of the form HOST:PORT")
    host = host.strip("[]")  # around an IPv6 address
    if host in ("localhost", "127.0.0.1", "::1"):
        host = ray.util.get_node_ip_address()  # the address that Ray will use
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    # A port above 65535 overflows; a label of a host name can be empty or too long.
    except (OSError, OverflowError, UnicodeError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> ZeromeanError:
    return ZeromeanError(
        f"no Ray cluster can be reached at {address} ({why})",
        "Start one with `ray start --head`, and pass the HOST:PORT that it prints",
    )

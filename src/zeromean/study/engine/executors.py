"""Train runs in this process or in several processes; executors only report what happens."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from zeromean.errors import ZeromeanError
from zeromean.study.engine import checkpoint, environment
from zeromean.study.engine.checkpoint import Checkpoint
from zeromean.study.engine.results import check_same_data
from zeromean.study.engine.scheduler import Group, run_name
from zeromean.study.spec.records import Key
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Progress, Task, TaskInfo
from zeromean.study.tasks.load import load

POLL_SECONDS = 0.5


class Event(NamedTuple):
    """A report of a run, or the end of a group.

    Args:
        group: Name of the group.
        key: Key of the run; None at the end of the group.
        turns: Number of reports that the run has made.
        progress: The report; its state is None if the executor has saved it.
        environment: Versions and machine of the process that trains.
        error: The error that ended the group, or None.
    """

    group: str
    key: Key | None = None
    turns: int = 0
    progress: Progress = Progress()
    environment: dict[str, str] | None = None
    error: ZeromeanError | None = None


class Executor(Protocol):
    """Trains groups and reports events, as a context manager."""

    @property
    def slots(self) -> int:
        """Number of groups that may run at once."""

    def submit(self, group: Group) -> None:
        """Begin a group."""

    def next_events(self) -> list[Event]:
        """Wait for events, and return them; an empty list if none came for a while."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...


class Plan(NamedTuple):
    """What a process needs to train groups of a study.

    Args:
        study: The study.
        infos: Information on the tasks from when the study began, by their labels.
        threads: Number of CPU threads per run.
        work: Folder of the checkpoints.
    """

    study: Study
    infos: Mapping[str, TaskInfo]
    threads: int
    work: Path

    def checkpoint(self, key: Key) -> Path:
        """Return the checkpoint file of a run."""
        return self.work / f"{run_name(self.study, key)}.pt"

    def checkpoints(self, group: Group) -> dict[Key, Checkpoint]:
        """Load the checkpoints of the runs of a group that have one."""
        found = {job.key: checkpoint.load(self.checkpoint(job.key)) for job in group.jobs}
        return {key: one for key, one in found.items() if one is not None}


def train_in_turns(
    task: Task, group: Group, states: dict[Key, Checkpoint]
) -> Iterator[tuple[Key, int, Progress]]:
    """Train the runs of a group, one report each in turns, each from its checkpoint.

    Each round begins with another run. A state is valid until the next report is asked for.

    Args:
        task: The loaded task.
        group: The runs.
        states: Checkpoints of runs that have begun, by their keys; they are taken out.
    """
    runs: dict[Key, Iterator[Progress]] = {}
    turns: dict[Key, int] = {}
    for job in group.jobs:
        begun = states.pop(job.key, Checkpoint(0, {}))
        turns[job.key] = begun.turns
        runs[job.key] = task.start(job, begun.state or None)
    number = 0
    while runs:
        keys = [*runs]
        first = number % len(keys)
        for key in keys[first:] + keys[:first]:
            if turns[key] > number:  # it is ahead, from its checkpoint
                continue
            turns[key] += 1
            progress = next(runs[key])
            yield key, turns[key], progress
            if progress.run is not None:
                del runs[key]
        number += 1


class InProcess:
    """Trains one group at a time in this process.

    Args:
        plan: What to train.
        tasks: The loaded tasks, by their labels.
    """

    slots = 1

    def __init__(self, plan: Plan, tasks: Mapping[str, Task]) -> None:
        self._plan, self._tasks = plan, tasks
        self._environment = environment.describe(plan.study.device)
        self._events: Iterator[Event] = iter(())
        self._group = ""

    def submit(self, group: Group) -> None:
        """Begin a group."""
        states = self._plan.checkpoints(group)
        self._group = group.name
        self._events = (
            Event(group.name, key, turns, progress, self._environment)
            for key, turns, progress in train_in_turns(self._tasks[group.task], group, states)
        )

    def next_events(self) -> list[Event]:
        """Train until the next report."""
        return [next(self._events, Event(self._group))]

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Processes:
    """Trains groups in several processes on this machine.

    Args:
        plan: What to train.
        jobs: Number of processes.
    """

    def __init__(self, plan: Plan, jobs: int) -> None:
        self.slots = jobs
        context = multiprocessing.get_context("spawn")
        # It holds one event, so the processes wait when a watcher does.
        self._queue: Any = context.Queue(1)
        # The processes end when the other end of this pipe is closed, however this process ends.
        reader, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(jobs, context, _begin_worker, (plan, self._queue, reader))
        self._futures: list[Future[None]] = []

    def submit(self, group: Group) -> None:
        """Begin a group."""
        try:
            future = self._pool.submit(_train_in_worker, group)
        except BrokenExecutor as error:
            future = Future()
            future.set_exception(error)
        self._futures.append(future)

    def next_events(self) -> list[Event]:
        """Wait for an event.

        Raises:
            ZeromeanError: A process died.
        """
        self._futures = [one for one in self._futures if not one.done() or one.exception()]
        failed = [one for one in self._futures if one.done()]
        try:
            # Events that came before an error are read, so that runs that ended are stored.
            return [self._queue.get(timeout=0 if failed else POLL_SECONDS)]
        except queue.Empty:
            pass
        try:
            for future in failed:
                future.result()
        except BrokenExecutor as error:
            raise ZeromeanError(
                "A training process ended unexpectedly: the system or the user's code killed it",
                "Give the same command again, with fewer jobs if memory was short",
            ) from error
        return []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._pool.shutdown()
        self._lifeline.close()
        self._pool.shutdown(cancel_futures=True)
        self._queue.close()


# The one trainer of a process of a pool.
_trainers: list[Callable[[Group], None]] = []


def _train_in_worker(group: Group) -> None:
    _trainers[0](group)


def _begin_worker(plan: Plan, events: Any, lifeline: Connection) -> None:
    """Prepare a process of the pool."""
    # Ctrl-C reaches every process of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(plan.threads)
    task_of = loader(plan.study, plan.infos)
    here = environment.describe(plan.study.device)

    def train(group: Group) -> None:
        error = None
        try:
            states = plan.checkpoints(group)
            for key, turns, progress in train_in_turns(task_of(group.task), group, states):
                if progress.state is not None:
                    checkpoint.save(plan.checkpoint(key), Checkpoint(turns, progress.state))
                events.put(Event(group.name, key, turns, progress._replace(state=None), here))
        except ZeromeanError as raised:
            error = raised
        events.put(Event(group.name, error=error))

    _trainers.append(train)


def _exit_with(lifeline: Connection) -> None:
    """End this process with its parent."""
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)


def loader(study: Study, infos: Mapping[str, TaskInfo]) -> Callable[[str], Task]:
    """Return a function that loads the task of a label at its first use.

    Args:
        study: The study.
        infos: Information on the tasks from when the study began; another fingerprint is refused.
    """

    @cache
    def task_of(label: str) -> Task:
        task = load(study, study.task(label))
        check_same_data({label: task.info}, infos)
        return task

    return task_of


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Use a number of CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

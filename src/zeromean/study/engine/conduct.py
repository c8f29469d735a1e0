"""A study from its declaration to its results: checked, begun or gone on with, finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from zeromean.errors import ZeromeanError
from zeromean.study import environment, results
from zeromean.study.engine.cluster import check_address, work_on_cluster
from zeromean.study.engine.continuation import check_folder, encode, go_on
from zeromean.study.engine.desk import Desk
from zeromean.study.engine.devices import Together, here, several
from zeromean.study.engine.processes import work_in_processes
from zeromean.study.engine.side_by_side import train
from zeromean.study.engine.together import Leader, follow
from zeromean.study.engine.units import Folder
from zeromean.study.engine.work import use_threads, work
from zeromean.study.facts import Facts
from zeromean.study.problem import Problem
from zeromean.study.results import Results
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.tasks.load import check_device, load, rehearse
from zeromean.study.tuning import check_search
from zeromean.study.watchers.progress import Nobody, Watcher


def conduct(
    study: Study,
    out: Path,
    *,
    jobs: int,
    ray: str | None,
    shard: bool,
    watcher: Watcher | None,
    command: str | None,
) -> Results:
    """Does what :meth:`zeromean.study.Study.run` tells of, where the arguments are described."""
    check_ways(jobs, ray, shard)
    devices = here(study.device, shard)
    if isinstance(devices, Together) and not devices.leads:
        return follow(study, devices)
    watcher = watcher or Nobody()
    folder = Folder(out)
    check_folder(study, out)
    check_device(study.device)
    check_search(study)
    problems = {}
    for task in study.tasks:
        problems[task.label] = load(study, task)
        rehearse(study, task, problems[task.label])
    threads = study.threads or max(1, torch.get_num_threads() // jobs)
    facts = _facts(study, command or study.command(out), problems, threads)
    leader = (
        Leader(study, problems, facts["tasks"], devices) if isinstance(devices, Together) else None
    )
    with _threads(threads), Store.create(folder.database, facts) as store:
        go_on(study, problems, out, store, facts["command"])
        desk = Desk(study, folder, store, watcher)
        threads = int(store.facts["threads"])
        use_threads(threads)
        if ray is not None:
            work_on_cluster(desk, ray, threads)
        elif jobs == 1:
            store.begin_session({**environment.describe(study.device), **devices.describe()})
            if leader is None:
                work(desk, lambda order: train(problems[order.task], study, order))
            else:
                leader.begin(threads)
                work(desk, leader.train)
        else:
            del problems  # each process has its own
            work_in_processes(study, out, jobs, watcher)
    folder.tidy()
    found = results.read(out)
    if leader is not None:
        leader.end(found)
    return found


def check_ways(jobs: int, ray: str | None, shard: bool) -> None:
    """Refuses ways of training that do not go together, or not here; the arguments are a run's.

    Raises:
        ZeromeanError: They do not.
    """
    if jobs < 1:
        raise ZeromeanError(f"jobs = {jobs}", "1 or more", "raise it")
    ways = {f"jobs = {jobs}": jobs > 1, f"ray {ray}": ray is not None, "torchrun": several()}
    chosen = [way for way, is_chosen in ways.items() if is_chosen]
    if len(chosen) > 1:
        raise ZeromeanError(" with ".join(chosen), "one of them", f"leave {chosen[0]} out")
    if shard and not several():
        raise ZeromeanError(
            "shard in one process",
            "several, which torchrun starts",
            "torchrun --nproc-per-node 2 -m zeromean ..., or leave shard out",
        )
    if ray is not None:
        check_address(ray)


def _facts(
    study: Study, command: str, problems: dict[str, Problem], threads: int
) -> dict[str, str]:
    return {
        "study": encode(study),
        "command": command,
        "threads": str(threads),
        "tasks": json.dumps(
            {
                task.label: asdict(Facts.of(study, task, problems[task.label]))
                for task in study.tasks
            }
        ),
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)

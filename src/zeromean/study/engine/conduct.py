"""A study from its declaration to its results: checked, begun or gone on with, finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

import torch

from zeromean.errors import ZeromeanError
from zeromean.study import environment, results
from zeromean.study.declare import as_toml, read
from zeromean.study.engine.cluster import check_address, work_on_cluster
from zeromean.study.engine.desk import Desk
from zeromean.study.engine.devices import Together, here, several
from zeromean.study.engine.processes import work_in_processes
from zeromean.study.engine.side_by_side import train
from zeromean.study.engine.together import Leader, follow
from zeromean.study.engine.units import Folder
from zeromean.study.engine.work import use_threads, work
from zeromean.study.problem import Problem
from zeromean.study.results import Facts, Results
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
        _check_same_study(study, out, store)  # another may have begun at the same moment
        desk = Desk(study, folder, store, watcher)
        results.check_same_data(problems, desk.facts)
        if study.needs_file:
            _keep_file(study, folder.file)
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
        "study": results.encode(study),
        "command": command,
        "threads": str(threads),
        "tasks": json.dumps(
            {
                task.label: asdict(Facts.of(study, task, problems[task.label]))
                for task in study.tasks
            }
        ),
    }


def check_folder(study: Study, out: Path) -> None:
    """Refuses a folder that the study cannot be kept in.

    Raises:
        ZeromeanError: It is a file, cannot be written to, or holds another study.
    """
    folder = Folder(out)
    try:
        # Empty, it is being made by another process at this moment.
        taken = folder.database.exists() and folder.database.stat().st_size > 0
        if out.exists() and not out.is_dir():
            raise ZeromeanError(f"out {out}, which is a file", "a folder", "pass another one")
        place = next(one for one in (out, *out.absolute().parents) if one.exists())
        TemporaryFile(dir=place).close()  # which leaves nothing behind
    except OSError as error:
        raise ZeromeanError(
            f"out {out}, which cannot be used ({error.strerror})",
            "a folder that can be written to",
            "pass another one",
        ) from error
    if taken:
        with Store(folder.database) as store:
            _check_same_study(study, out, store)
    elif (
        study.needs_file
        and folder.file.exists()
        and not results.is_same(study, results.encode(read(folder.file)))
    ):
        raise ZeromeanError(
            f"{folder.file}, which declares another study",
            "none: the folder keeps the study's own there",
            "pass another folder, or give that file another name",
        )


def _check_same_study(study: Study, out: Path, store: Store) -> None:
    if not results.is_same(study, store.facts.get("study", "{}")):
        raise ZeromeanError(
            f"out {out}, which already holds a study with other settings",
            f"this study's folder, or one without {store.path.name}",
            "pass another folder, or remove the old study",
        )


def _keep_file(study: Study, file: Path) -> None:
    """In one stroke, and only where there is none: it may be the user's own, with comments."""
    if not file.exists():
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(as_toml(study), encoding="utf-8")
        os.replace(new, file)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)

"""Run a study: check it, create or resume its folder, and train its runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from zeromean.errors import ZeromeanError
from zeromean.study.engine import checkpoint, results
from zeromean.study.engine.checkpoint import Checkpoint
from zeromean.study.engine.executors import Executor, InProcess, Plan, Processes, with_threads
from zeromean.study.engine.ray_executor import RayCluster, check_address
from zeromean.study.engine.results import Results
from zeromean.study.engine.resume import begin_or_resume, check_folder
from zeromean.study.engine.scheduler import Scheduler
from zeromean.study.engine.search import check_search
from zeromean.study.engine.store import Store
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Task
from zeromean.study.tasks.load import check_device, load


def run(
    study: Study,
    out: Path | str,
    *,
    jobs: int = 1,
    ray: str | None = None,
    watcher: Watcher | None = None,
    command: str | None = None,
) -> Results:
    """Train the runs of a study that its folder does not hold yet, and store each one at its end.

    If the folder holds the same study, unfinished runs continue after their last epoch; the results
    equal those of a study that was never interrupted. A finished study can get more seeds. Only one
    program at a time can run a study in a folder.

    Args:
        study: The study.
        out: Folder of the results.
        jobs: Number of training processes. With more than one, a script has to call this function
            under ``if __name__ == "__main__":``, because each process imports the script.
        ray: HOST:PORT of a Ray cluster that trains the runs; None trains them on this machine.
        watcher: Callbacks for each finished epoch and run.
        command: Command that the report shows; None for the one that repeats the study.

    Returns:
        The results of all runs. :func:`zeromean.study.write_report` makes a report of them.

    Raises:
        ZeromeanError: The data, the device or the folder cannot be used, or the data does not fit
            the settings; the folder holds another study; or another program runs a study in it.

    Example:
        >>> import tempfile
        >>> from zeromean.study import ImageTask, Study, run
        >>> study = Study(tasks=(ImageTask(model="mlp", epochs=1),), seeds=1)
        >>> [run.key.method for run in run(study, tempfile.mkdtemp()).runs]
        ['plain', 'gc']
    """
    out = Path(out)
    check_jobs(jobs, ray)
    check_programs(study, jobs, ray)
    check_folder(study, out)
    check_device(study.device)
    check_search(study)
    tasks = _load_tasks(study)
    infos = {label: task.info for label, task in tasks.items()}
    threads = study.threads or max(1, torch.get_num_threads() // jobs)
    with _only_program(out):
        command = command or study.command(out)
        with begin_or_resume(study, infos, out, threads, command) as store:
            plan = Plan(study, infos, int(store.facts["threads"]), out / "work")
            with with_threads(plan.threads), _executor(plan, tasks, jobs, ray) as executor:
                execute(Scheduler(study, infos, store), executor, plan, store, watcher or Watcher())
        results.remove_checkpoints(out)
        return results.read(out)


def _load_tasks(study: Study) -> dict[str, Task]:
    """Load and check all tasks of a study, by their labels."""
    tasks = {spec.label: load(study, spec) for spec in study.tasks}
    for task in tasks.values():
        task.check(study.methods, study.optimizers)
    return tasks


def _executor(plan: Plan, tasks: dict[str, Task], jobs: int, ray: str | None) -> Executor:
    if ray is not None:
        return RayCluster(plan, ray)
    if jobs > 1:
        tasks.clear()  # each process loads its own
        return Processes(plan, jobs)
    return InProcess(plan, tasks)


def execute(
    scheduler: Scheduler, executor: Executor, plan: Plan, store: Store, watcher: Watcher
) -> None:
    """Keep an executor busy until every run is stored.

    Raises:
        ZeromeanError: A run cannot be trained; stored runs and checkpoints stay.
    """
    running: set[str] = set()
    while True:
        while len(running) < executor.slots and (group := scheduler.next_group(running)):
            running.add(group.name)
            executor.submit(group)
        if not running:
            return
        for event in executor.next_events():
            if event.error is not None:
                raise event.error
            if event.key is None:
                running.discard(event.group)
                continue
            path, progress = plan.checkpoint(event.key), event.progress
            # Stored first, so that an error in a callback loses nothing.
            if progress.state is not None:
                checkpoint.save(path, Checkpoint(event.turns, progress.state))
            if progress.run is not None:
                store.begin_session(event.environment or {})
                store.add(progress.run)
                path.unlink(missing_ok=True)
                scheduler.end(progress.run)
            if progress.epoch is not None:
                watcher.on_epoch(event.key, progress.epoch)
            if progress.run is not None:
                watcher.on_run(progress.run)


def check_jobs(jobs: int, ray: str | None) -> None:
    """Check the number of processes and that the Ray cluster can be reached.

    Raises:
        ZeromeanError: ``jobs`` is below 1, ``jobs`` and ``ray`` are both given, or the cluster
            cannot be reached.
    """
    if jobs < 1:
        raise ZeromeanError(f"jobs is {jobs}; it has to be at least 1", "Raise jobs")
    if ray is not None:
        if jobs > 1:
            raise ZeromeanError("jobs and ray are both given", "Remove one of them")
        check_address(ray)


def check_programs(study: Study, jobs: int, ray: str | None) -> None:
    """Check that the runs of programs do not disturb each other.

    Raises:
        ZeromeanError: ``ray`` is given, devices would not be used, or several runs would write to
            the same folder.
    """
    for task in study.programs:
        if ray is not None:
            raise ZeromeanError("Ray cannot run programs", "Use jobs instead")
        if len(task.devices) > jobs:
            raise ZeromeanError(
                f"{task.label} has {len(task.devices)} devices, but jobs is {jobs}, so only"
                f" {jobs} would be used",
                f"Pass --jobs {len(task.devices)} (in Python, jobs={len(task.devices)}), or name"
                " fewer devices",
            )
        if jobs > 1 and not (task.has("out") or task.own_folder):
            raise ZeromeanError(
                f"jobs is {jobs}, but the runs of {task.label} would write to the same folder",
                "Pass {out} to the program as its output folder, or give each run a copy of the"
                " working folder by --own-folder (in a study file, own_folder = true)",
            )


@contextmanager
def _only_program(out: Path) -> Iterator[None]:
    """Lock a folder, so that no other program runs a study in it."""
    lock = FileLock(out / "study.lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ZeromeanError(
            f"another program is running the study in {out}",
            "Wait until it ends, or pass another folder",
        ) from error
    except OSError as error:
        raise ZeromeanError(f"{out} cannot be used ({error})", "Pass a writable folder") from error
    try:
        yield
    finally:
        lock.release()

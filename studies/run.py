"""Train the studies of this folder one after another, and say how many hours are left.

    python studies/run.py --data DATA

The study files are run in the order of their names. Results are stored in ``studies/results/NAME``;
an interrupted study continues after its last epoch. While the file ``runs/PAUSE`` exists, training
waits after an epoch; each of several jobs may finish a second one. A study that cannot run, such as
one whose data are missing or whose results cannot be read, is left out with one line that says why.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from zeromean.cli.output import INTERRUPTED, one_line_errors, refuse
from zeromean.cli.progress import LiveProgress
from zeromean.errors import ZeromeanError
from zeromean.recipes.cost import measure
from zeromean.study import Study, run, write_report
from zeromean.study.engine.results import holds_study, missing_runs, open_store
from zeromean.study.engine.run import check_jobs
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.records import Epoch, Key
from zeromean.study.spec.task import TrainedTask
from zeromean.study.spec.toml import read
from zeromean.study.tasks.load import load_problem

FOLDER = Path(__file__).resolve().parent
PAUSE = FOLDER.parent / "runs" / "PAUSE"
POLL_SECONDS = 1.0
# Settings of a task that the time of an epoch depends on.
Load = tuple[object, ...]


class Entry(NamedTuple):
    """A study of the list.

    Args:
        name: Name of its file, without the suffix.
        study: The study.
        out: Folder of its results.
    """

    name: str
    study: Study
    out: Path


class PausingProgress(LiveProgress):
    """Shows the progress of a study, and waits after an epoch while a file exists.

    Args:
        study: Study to run.
        left: Keys of the runs that are missing.
        pause: The file.
    """

    def __init__(self, study: Study, left: list[Key], pause: Path) -> None:
        super().__init__(study, left)
        self._pause = pause

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """Show the epoch, and wait."""
        super().on_epoch(key, epoch)
        wait_while(self._pause)


def wait_while(pause: Path) -> None:
    """Wait until a file does not exist."""
    if pause.exists():
        print(f"Waiting while {pause} exists.", flush=True)
        while pause.exists():
            time.sleep(POLL_SECONDS)


def entries(folder: Path) -> list[Entry]:
    """Return the studies of a folder, in the order of their names."""
    return [
        Entry(file.stem, read(file), folder / "results" / file.stem)
        for file in sorted(folder.glob("*.toml"))
    ]


def can_be_run(entry: Entry) -> bool:
    """Return whether a study can be run from the list; print a line if it cannot."""
    if entry.study.programs:
        print(f"{entry.name} is left out: run it with zeromean study", flush=True)
        return False
    try:
        missing_runs(entry.study, entry.out)
        if holds_study(entry.out):
            with open_store(entry.out) as (store, _, _):
                store.runs()
    except ZeromeanError as error:
        print(f"{entry.name} is left out: {error}", flush=True)
        return False
    return True


def load_of(study: Study, task: TrainedTask) -> Load:
    """Return what the time of an epoch depends on, apart from method and optimizer."""
    return (task.source, task.batch_size, task.train_size, task.imbalance, study.precision)


def stored_seconds(every: list[Entry]) -> dict[Load, float]:
    """Return the median seconds of training per epoch of each load that has stored runs."""
    found: dict[Load, list[float]] = {}
    for entry in every:
        if holds_study(entry.out):
            with open_store(entry.out) as (store, study, _):
                for one in store.runs():
                    load = load_of(study, study.task(one.key.task))
                    found.setdefault(load, []).append(one.seconds_per_epoch)
    return {load: statistics.median(seconds) for load, seconds in found.items()}


def timed_seconds(study: Study, task: TrainedTask) -> float:
    """Return the seconds of an epoch from a few steps of plain training; nan without the data."""
    alone = replace(study, tasks=(task,))
    try:
        problem = load_problem(alone, task)
    except ZeromeanError:
        return math.nan
    return problem.steps(task.batch_size) * measure(alone, problem, BASELINE).step


def left(every: list[Entry], timed: dict[Load, float], jobs: int = 1) -> Iterator[str]:
    """Yield a line per study that is not finished, and the hours of all of them.

    Args:
        every: The studies.
        timed: Seconds per epoch of loads without stored runs; more are added.
        jobs: Number of training processes, each of them as fast as a single one.
    """
    stored, total, unknown = stored_seconds(every), 0.0, False
    for name, study, out in every:
        missing = missing_runs(study, out)
        if not missing:
            continue
        seconds = 0.0
        for label, keys in itertools.groupby(missing, lambda key: key.task):
            task = study.task(label)
            load = load_of(study, task)
            if load not in stored and load not in timed:
                timed[load] = timed_seconds(study, task)
            seconds += {**timed, **stored}[load] * sum(map(study.epochs, keys)) / jobs
        if math.isnan(seconds):
            unknown = True
        else:
            total += seconds
        hours = "not timed" if math.isnan(seconds) else f"{seconds / 3600:.1f} hours"
        yield f"{name}: {len(missing)} runs left, {hours}"
    least = "at least " if unknown else ""
    yield f"Left: {least}{total / 3600:.1f} hours of training."


def run_all(every: list[Entry], pause: Path, timed: dict[Load, float], jobs: int = 1) -> bool:
    """Run all studies that are not finished; return whether none had to be left out.

    Args:
        every: The studies.
        pause: File that stops the training.
        timed: Seconds per epoch, as for :func:`left`.
        jobs: Number of training processes.
    """
    complete = True
    for name, study, out in every:
        missing = missing_runs(study, out)
        if not missing:
            continue
        wait_while(pause)
        print(f"{name} begins.", flush=True)
        try:
            with PausingProgress(study, missing, pause) as progress:
                command = f"make studies  # {name}"
                results = run(study, out, jobs=jobs, watcher=progress, command=command)
        except ZeromeanError as error:
            print(f"{name} is left out: {error} {study.note or ''}".rstrip(), flush=True)
            complete = False
            continue
        write_report(results)
        print(f"{name} is finished: {out}", *left(every, timed, jobs), sep="\n", flush=True)
    return complete


def main() -> None:
    """Run the list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(), help="folder of the data sets")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the study files")
    parser.add_argument("--pause", type=Path, default=PAUSE, help="file that stops the training")
    parser.add_argument("--jobs", type=int, default=1, help="number of training processes")
    parser.add_argument("--left", action="store_true", help="only print what is left")
    arguments = parser.parse_args()
    with one_line_errors():
        check_jobs(arguments.jobs, ray=None)
        listed = entries(arguments.folder.resolve())
        every = [entry for entry in listed if can_be_run(entry)]
        pause = arguments.pause.resolve()
        os.chdir(arguments.data)  # the paths of data in the files are relative to it
        timed: dict[Load, float] = {}
        for line in left(every, timed, arguments.jobs):
            print(line, flush=True)
        if arguments.left:
            return
        try:
            complete = run_all(every, pause, timed, arguments.jobs)
        except KeyboardInterrupt:
            refuse("interrupted; the same command continues", INTERRUPTED)
    sys.exit(0 if complete and every == listed else 1)


if __name__ == "__main__":
    main()

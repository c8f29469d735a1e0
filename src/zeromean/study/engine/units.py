"""The work of a study in units: the runs that one process trains side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from filelock import FileLock, Timeout

from zeromean.study.run import Key
from zeromean.study.study import Study

_One = TypeVar("_One")


class Unit(NamedTuple):
    """All methods of one task, optimizer and seed; or all seeds of a tuning trial of one method.

    Its stacks take turns epoch by epoch: what slows the machine for a while slows all of them, and
    their ratio stays what it is.

    Where runs of a method train together, a unit has several seeds; or, of a grid, which knows
    beforehand what it tries, several trials.

    Args:
        name: Of its files.
        stacks: The runs, those together that train as one, in the order of their first turns.
    """

    name: str
    stacks: tuple[tuple[Key, ...], ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """All its runs."""
        return tuple(itertools.chain.from_iterable(self.stacks))


# Of runs that train together: more make it little faster, and leave less for other processes.
MEMBERS = 4


def units(study: Study, stacked: Mapping[str, Collection[str]] | None = None) -> list[Unit]:
    """In the order in which they are begun: tuning first.

    Args:
        study: What is to be done.
        stacked: For each task's label, the methods whose runs train several at a time.
    """
    stacked = stacked or {}
    return [*_trials(study, stacked), *_finals(study, stacked)]


def _trials(study: Study, stacked: Mapping[str, Collection[str]]) -> list[Unit]:
    if study.tuning is None:
        return []
    tuning, seeds = study.tuning, range(study.seeds, study.seeds + study.tuning.seeds)
    found = []
    for number, (task, optimizer) in enumerate(study.cells):
        for place, method in enumerate(study.methods):
            trials = [
                [Key(task, optimizer, method, seed, trial) for seed in seeds]
                for trial in range(tuning.trial_count)
            ]
            own = method in stacked.get(task, ())
            if own and tuning.search == "grid":
                stacks = _evenly([key for keys in trials for key in keys], MEMBERS)
                blocks = [[stack] for stack in stacks]
            else:
                blocks = [_evenly(keys, MEMBERS if own else 1) for keys in trials]
            found.append(
                [
                    Unit(f"{number}-{place}-trial-{index}", tuple(block))
                    for index, block in enumerate(blocks)
                ]
            )
    return _in_turns(found)


def _finals(study: Study, stacked: Mapping[str, Collection[str]]) -> list[Unit]:
    found = []
    for number, (task, optimizer) in enumerate(study.cells):
        own = stacked.get(task, ())
        found.append(
            [
                Unit(
                    f"{number}-{seeds[0]}",
                    tuple(
                        stack
                        for method in study.methods
                        for stack in _evenly(
                            [Key(task, optimizer, method, seed) for seed in seeds],
                            MEMBERS if method in own else 1,
                        )
                    ),
                )
                for seeds in _evenly(range(study.seeds), MEMBERS if own else 1)
            ]
        )
    return _in_turns(found)


def _evenly(whole: Sequence[_One], most: int) -> list[tuple[_One, ...]]:
    """Cut into as few parts as there can be with at most so many each, alike in size."""
    parts = math.ceil(len(whole) / most)
    ends = [len(whole) * part // parts for part in range(parts + 1)]
    return [tuple(whole[start:end]) for start, end in itertools.pairwise(ends)]


def _in_turns(lists: list[list[Unit]]) -> list[Unit]:
    """The first of each list, then the second of each, and so on."""
    turns = itertools.zip_longest(*lists)
    return [unit for turn in turns for unit in turn if unit is not None]


class Folder:
    """Where a study lives: the database, and what is under way beside it.

    Args:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "study.sqlite"
        self.file = path / "study.toml"
        self._work = path / "work"

    @property
    def holds_study(self) -> bool:
        """Whether one has begun; an empty database is being made by another process right now."""
        return self.database.exists() and self.database.stat().st_size > 0

    def checkpoint(self, unit: Unit, stack: int) -> Path:
        """Of one of the unit's stacks, by its place."""
        return self._work / f"{unit.name}-{stack}.pt"

    @contextmanager
    def claim(self, unit: Unit) -> Iterator[bool]:
        """Whether the unit is this process's alone until the block ends.

        The system releases a claim when its process dies, however it does.
        """
        self._work.mkdir(exist_ok=True)
        lock = FileLock(self._work / f"{unit.name}.lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):  # another's, or all is done and tidied up just now
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @property
    def is_claimed(self) -> bool:
        """Whether some process trains here at this moment."""
        return any(_is_held(file) for file in self._work.glob("*.lock"))

    def tidy(self) -> None:
        """Removes what was under way, once nobody goes on with it."""
        if self._work.is_dir():
            for file in self._work.iterdir():
                file.unlink(missing_ok=True)
            with suppress(OSError):  # another process has just looked at its last claim
                self._work.rmdir()


def _is_held(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except FileNotFoundError:  # tidied up just now
        return False
    lock.release()
    return False

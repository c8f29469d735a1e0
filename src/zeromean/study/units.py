"""The work of a study in units: the runs that one process trains side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from zeromean.study.run import Key
from zeromean.study.study import Study


class Unit(NamedTuple):
    """All methods of one task, optimizer and seed; or all seeds of a tuning trial of one method.

    Its runs take turns epoch by epoch: what slows the machine for a while slows all of them, and
    their ratio stays what it is.

    Args:
        name: Of its files.
        keys: The runs, in the order of their first turns.
    """

    name: str
    keys: tuple[Key, ...]


def units(study: Study) -> list[Unit]:
    """In the order in which they are begun: tuning first."""
    return [*_trials(study), *_finals(study)]


def _trials(study: Study) -> list[Unit]:
    if study.tuning is None:
        return []
    seeds = range(study.seeds, study.seeds + study.tuning.seeds)
    return [
        Unit(
            f"{number}-{place}-trial-{trial}",
            tuple(Key(task, optimizer, method, seed, trial) for seed in seeds),
        )
        for trial in range(study.tuning.trial_count)
        for number, (task, optimizer) in enumerate(study.cells)
        for place, method in enumerate(study.methods)
    ]


def _finals(study: Study) -> list[Unit]:
    return [
        Unit(
            f"{number}-{seed}",
            tuple(Key(task, optimizer, method, seed) for method in study.methods),
        )
        for seed in range(study.seeds)
        for number, (task, optimizer) in enumerate(study.cells)
    ]


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

    def checkpoint(self, unit: Unit, key: Key) -> Path:
        """Of one of the unit's runs."""
        return self._work / f"{unit.name}-{unit.keys.index(key)}.pt"

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

    def tidy(self) -> None:
        """Removes what was under way, once all runs are in the database."""
        if self._work.is_dir():
            for file in self._work.iterdir():
                file.unlink(missing_ok=True)
            with suppress(OSError):  # another process has just looked at its last claim
                self._work.rmdir()

"""Results in SQLite, a run at a time."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from zeromean.errors import ZeromeanError
from zeromean.study.train import Run

# SQLite stores a NaN as NULL: a NULL loss is one that was not a number.
SCHEMA = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    method TEXT NOT NULL,
    seed INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('finished', 'diverged')),
    final_accuracy REAL NOT NULL,
    seconds_per_epoch REAL NOT NULL,
    UNIQUE (method, seed)
);
CREATE TABLE epochs (
    run INTEGER NOT NULL REFERENCES runs (id),
    epoch INTEGER NOT NULL,
    train_loss REAL,
    test_loss REAL,
    test_accuracy REAL NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (run, epoch)
);
"""


class Store:
    """A new database of one study; leaving the context closes it.

    A study in which no run ended is removed again, so that the same command can be repeated.

    Args:
        path: The database file; its folder is made where missing.
        facts: Settings and environment, kept in the table ``study``.

    Raises:
        ZeromeanError: The file exists already, or cannot be written.
    """

    def __init__(self, path: Path, facts: dict[str, str]) -> None:
        self.path = path
        self.kept = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Exclusive: of two comparisons started at once for one folder, the second is refused.
            path.touch(exist_ok=False)
            self._database = sqlite3.connect(path)
            self._database.execute("PRAGMA foreign_keys = ON")
            with self._database:
                self._database.executescript(SCHEMA)
                self._database.executemany("INSERT INTO study VALUES (?, ?)", facts.items())
        except (OSError, sqlite3.Error) as error:
            raise ZeromeanError(
                f"{path}, which cannot be created ({error})",
                "a folder that can be written to, without a study in it",
                "pass another --out",
            ) from error

    def add(self, run: Run) -> None:
        """Writes a run and its epochs, in one transaction.

        Raises:
            ZeromeanError: The database cannot be written any more, such as on a full disk.
        """
        status = "diverged" if run.diverged else "finished"
        try:
            with self._database as database:
                cursor = database.execute(
                    "INSERT INTO runs (method, seed, status, final_accuracy, seconds_per_epoch) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (run.method, run.seed, status, run.final_accuracy, run.seconds_per_epoch),
                )
                database.executemany(
                    "INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (
                            cursor.lastrowid,
                            epoch.number,
                            epoch.train_loss,
                            epoch.test_loss,
                            epoch.test_accuracy,
                            epoch.seconds,
                        )
                        for epoch in run.epochs
                    ],
                )
        except sqlite3.Error as error:
            raise ZeromeanError(
                f"{self.path}, which cannot be written ({error}) after {self.kept} run(s)",
                "a disk with room",
                "make room and start again with another --out",
            ) from error
        self.kept += 1

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()
        if self.kept == 0:
            self.path.unlink()

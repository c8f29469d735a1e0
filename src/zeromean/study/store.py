"""Results in SQLite, a run at a time, by any number of processes."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.study.run import FINAL, Candidate, Epoch, Key, Run

# SQLite stores a NaN as NULL: a NULL loss is one that was not a number.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    environment TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    optimizer TEXT NOT NULL,
    method TEXT NOT NULL,
    seed INTEGER NOT NULL,
    trial INTEGER NOT NULL, -- of the tuning; {FINAL} for a run of the comparison
    learning_rate REAL NOT NULL,
    weight_decay REAL,
    status TEXT NOT NULL CHECK (status IN ('finished', 'diverged')),
    train_score REAL,
    test_loss REAL,
    test_score REAL,
    session INTEGER NOT NULL REFERENCES sessions (id),
    UNIQUE (task, optimizer, method, seed, trial)
);
CREATE TABLE IF NOT EXISTS epochs (
    run INTEGER NOT NULL REFERENCES runs (id),
    epoch INTEGER NOT NULL,
    train_loss REAL,
    loss REAL,
    score REAL,
    seconds REAL NOT NULL,
    PRIMARY KEY (run, epoch)
);
"""
FACTS = "SELECT key, value FROM study"
# Writes are short; whoever waits this long for one has another trouble.
WAIT_SECONDS = 60.0


class Store:
    """The database of one study; leaving the context closes it.

    Args:
        path: The database file.

    Raises:
        ZeromeanError: There is none, or it holds no study.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ZeromeanError(f"{path}, which does not exist", "a study", "check the folder")
        self.path = path
        self._session: int | None = None
        self._sessions: dict[str, int | None] = {}
        try:
            self._database = sqlite3.connect(path, timeout=WAIT_SECONDS)
            self._database.execute("PRAGMA foreign_keys = ON")
            self.facts: dict[str, str] = dict(self._database.execute(FACTS).fetchall())
        except sqlite3.Error as error:
            raise _no_study(path, error) from error

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str]) -> Store:
        """The study of that path, made where there is none.

        Facts that the study has already stay: of processes that start at once, one makes it.

        Raises:
            ZeromeanError: The file cannot be written, or is something else.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, timeout=WAIT_SECONDS)
            try:
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    for statement in SCHEMA.split(";\n"):
                        database.execute(statement)
                    database.executemany("INSERT OR IGNORE INTO study VALUES (?, ?)", facts.items())
            finally:
                database.close()
        except sqlite3.DatabaseError as error:
            if path.is_file() and not isinstance(error, sqlite3.OperationalError):
                raise _no_study(path, error) from error
            raise _cannot_create(path, error) from error
        except OSError as error:
            raise _cannot_create(path, error) from error
        return cls(path)

    @contextmanager
    def revising(self) -> Iterator[dict[str, str]]:
        """The facts as they are now; what the block makes of them is kept, unless it raises.

        Nobody else writes in the meantime.
        """
        with self._writing() as database:
            database.execute("BEGIN IMMEDIATE")
            self.facts = dict(database.execute(FACTS).fetchall())
            before = dict(self.facts)
            yield self.facts
            changed = self.facts.items() - before.items()
            database.executemany("INSERT OR REPLACE INTO study VALUES (?, ?)", changed)

    def begin_session(self, environment: Mapping[str, str]) -> None:
        """Records where the runs that are added from now on are made; goes on with one begun."""
        text = json.dumps(dict(environment))
        if text not in self._sessions:
            started = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
            with self._writing() as database:
                self._sessions[text] = database.execute(
                    "INSERT INTO sessions (started, environment) VALUES (?, ?)", (started, text)
                ).lastrowid
        self._session = self._sessions[text]

    def add(self, *runs: Run) -> None:
        """Writes runs and their epochs, in one transaction; a run that is kept already stays.

        Raises:
            ZeromeanError: The database cannot be written any more, such as on a full disk.
        """
        with self._writing() as database:
            for run in runs:
                self._add(database, run)

    def _add(self, database: sqlite3.Connection, run: Run) -> None:
        status = "diverged" if run.diverged else "finished"
        scores = (run.train_score, run.test_loss, run.test_score)
        cursor = database.execute(
            "INSERT INTO runs (task, optimizer, method, seed, trial, learning_rate,"
            " weight_decay, status, train_score, test_loss, test_score, session)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (task, optimizer, method, seed, trial) DO NOTHING",
            (*run.key, *run.candidate, status, *scores, self._session),
        )
        if cursor.rowcount:
            database.executemany(
                "INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        cursor.lastrowid,
                        epoch.number,
                        epoch.train_loss,
                        epoch.loss,
                        epoch.score,
                        epoch.seconds,
                    )
                    for epoch in run.epochs
                ],
            )

    def keys(self) -> set[Key]:
        """Of the runs that are kept."""
        return {Key(*row) for row in self._rows(f"SELECT {KEY_COLUMNS} FROM runs")}

    def runs(self) -> list[Run]:
        """All runs that are kept, in the order in which they were."""
        # Runs before epochs: what another process adds in between has epochs too many, not too few.
        runs = self._rows(
            f"SELECT id, {KEY_COLUMNS}, learning_rate, weight_decay,"
            " train_score, test_loss, test_score FROM runs ORDER BY id"
        )
        epochs: dict[int, list[Epoch]] = {}
        for run, *values in self._rows(
            "SELECT run, epoch, train_loss, loss, score, seconds FROM epochs ORDER BY run, epoch"
        ):
            numbers: list[Any] = [math.nan if value is None else value for value in values]
            epochs.setdefault(run, []).append(Epoch(*numbers))
        return [
            Run(Key(*row[1:6]), Candidate(*row[6:8]), tuple(epochs[row[0]]), *row[8:])
            for row in runs
        ]

    def sessions(self) -> list[dict[str, str]]:
        """The environments in which runs were made, each once, with its beginning first."""
        rows = self._rows(
            "SELECT started, environment FROM sessions"
            " WHERE id IN (SELECT session FROM runs) ORDER BY id"
        )
        found: dict[str, dict[str, str]] = {}
        for started, environment in rows:
            found.setdefault(environment, {"started": started, **json.loads(environment)})
        return list(found.values())

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = self._database.execute(query).fetchall()
            return rows
        except sqlite3.Error as error:
            raise _no_study(self.path, error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database as database:
                yield database
        except sqlite3.Error as error:
            raise ZeromeanError(
                f"{self.path}, which cannot be written ({error}) after {len(self.keys())} run(s)",
                "a disk with room",
                "make room and give the same command again",
            ) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()


KEY_COLUMNS = "task, optimizer, method, seed, trial"


def _no_study(path: Path, error: sqlite3.Error) -> ZeromeanError:
    return ZeromeanError(
        f"{path}, which holds no study that can be read ({error})",
        "a study.sqlite that this version made",
        "pass another folder, or remove the file",
    )


def _cannot_create(path: Path, error: Exception) -> ZeromeanError:
    return ZeromeanError(
        f"{path}, which cannot be created ({error})",
        "a folder that can be written to",
        "pass another folder",
    )

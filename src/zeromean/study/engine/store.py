"""Store the results of a study in SQLite, one run at a time, from one process."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from zeromean.errors import ZeromeanError
from zeromean.study.spec.records import FINAL, Candidate, Epoch, Key, Run, RunStatus

FORMAT = "2"
# SQLite stores NaN as NULL, so a NULL metric is one that was not a number. Without row numbers the
# table of epochs, nearly all of the file, takes half the space.
SCHEMA = f"""
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    environment TEXT NOT NULL
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    optimizer TEXT NOT NULL,
    method TEXT NOT NULL,
    seed INTEGER NOT NULL,
    trial INTEGER NOT NULL, -- of the tuning; {FINAL} for a run of the comparison
    learning_rate REAL,
    weight_decay REAL,
    options TEXT NOT NULL, -- other values that were tuned, as JSON
    status TEXT NOT NULL CHECK (status IN ('finished', 'diverged', 'failed')),
    train_score REAL,
    test_loss REAL,
    test_score REAL,
    failure TEXT,
    session INTEGER NOT NULL REFERENCES sessions (id),
    UNIQUE (task, optimizer, method, seed, trial)
);
CREATE TABLE epochs (
    run INTEGER NOT NULL REFERENCES runs (id),
    epoch INTEGER NOT NULL,
    metric TEXT NOT NULL, -- 'seconds', or the name of a metric
    value REAL,
    PRIMARY KEY (run, epoch, metric)
) WITHOUT ROWID;
"""
KEY_COLUMNS = "task, optimizer, method, seed, trial"
RUN_COLUMNS = (
    f"{KEY_COLUMNS}, learning_rate, weight_decay, options, status,"
    " train_score, test_loss, test_score, failure"
)
SECONDS = "seconds"
# Other programs hold a lock for milliseconds.
WAIT_SECONDS = 20.0

_Number = float | None
_RunRow = tuple[
    int, str, str, str, int, int, _Number, _Number, str, RunStatus, _Number, _Number, _Number,
    str | None,
]  # fmt: skip
_EpochRow = tuple[int, int, str, _Number]


class Store:
    """The database of one study; leaving the context closes it.

    Args:
        path: The database file.

    Raises:
        ZeromeanError: It does not exist, cannot be read, or holds no study.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: int | None = None
        self._sessions: dict[str, int | None] = {}
        with self.reading():
            if not path.is_file():
                raise ZeromeanError(f"{path} does not exist", "Pass the folder of a study")
            self._database = sqlite3.connect(path, timeout=WAIT_SECONDS)
        try:
            with self.reading():
                self._database.execute("PRAGMA foreign_keys = ON")
                rows = self._database.execute("SELECT key, value FROM study").fetchall()
                self.facts = dict(msgspec.convert(rows, list[tuple[str, str]]))
            if self.facts.get("format") != FORMAT:
                raise ZeromeanError(
                    f"{path} was made by another version of zeromean",
                    "Use that version, or pass another folder",
                )
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, str]) -> Store:
        """Open the study of a path, or make it with these facts if there is none.

        Raises:
            ZeromeanError: The file cannot be written, or is something else.
        """
        if not path.exists() or path.stat().st_size == 0:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(path, timeout=WAIT_SECONDS)
                try:
                    with database:  # one transaction: a file without it is an empty one
                        database.execute("BEGIN IMMEDIATE")
                        for statement in SCHEMA.split(";\n"):
                            database.execute(statement)
                        rows = {**facts, "format": FORMAT}.items()
                        database.executemany("INSERT INTO study VALUES (?, ?)", rows)
                finally:
                    database.close()
            except (sqlite3.Error, OSError) as error:
                raise ZeromeanError(
                    f"{path} cannot be created ({error})", "Pass a folder that can be written to"
                ) from error
        return cls(path)

    def revise(self, facts: Mapping[str, str]) -> None:
        """Change facts about the study."""
        with self._writing() as database:
            database.executemany("INSERT OR REPLACE INTO study VALUES (?, ?)", facts.items())
        self.facts.update(facts)

    def begin_session(self, environment: Mapping[str, str]) -> None:
        """Record the environment of the runs that are added from now on."""
        text = json.dumps(dict(environment))
        if text not in self._sessions:
            started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            with self._writing() as database:
                self._sessions[text] = database.execute(
                    "INSERT INTO sessions (started, environment) VALUES (?, ?)", (started, text)
                ).lastrowid
        self._session = self._sessions[text]

    def add(self, run: Run) -> None:
        """Write a run and its epochs in one transaction.

        Raises:
            ZeromeanError: The database cannot be written, such as on a full disk.
        """
        lr, decay, options = run.candidate
        with self._writing() as database:
            ends = (run.train_score, run.test_loss, run.test_score, run.failure)
            row = (*run.key, lr, decay, json.dumps(dict(options)), run.status.value, *ends)
            cursor = database.execute(
                f"INSERT INTO runs ({RUN_COLUMNS}, session) VALUES ({', '.join('?' * 14)})",
                (*row, self._session),
            )
            rows = [
                (cursor.lastrowid, epoch.number, name, value)
                for epoch in run.epochs
                for name, value in {**epoch.metrics, SECONDS: epoch.seconds}.items()
            ]
            database.executemany("INSERT INTO epochs VALUES (?, ?, ?, ?)", rows)

    def restart_failed_tasks(self) -> None:
        """Remove the runs of tasks whose runs have all failed, so that they begin again."""
        failed = "SELECT id FROM runs WHERE task NOT IN (SELECT task FROM runs WHERE status != ?)"
        with self._writing() as database:
            rows = database.execute(failed, (RunStatus.FAILED.value,)).fetchall()
            database.executemany("DELETE FROM epochs WHERE run = ?", rows)
            database.executemany("DELETE FROM runs WHERE id = ?", rows)

    def keys(self) -> set[Key]:
        """Return the keys of the stored runs."""
        with self.reading():
            rows = self._database.execute(f"SELECT {KEY_COLUMNS} FROM runs").fetchall()
            return {
                Key(*row) for row in msgspec.convert(rows, list[tuple[str, str, str, int, int]])
            }

    def runs(self) -> list[Run]:
        """Return the stored runs, in the order in which they were stored."""
        with self.reading():
            # Runs first, so that one that another process adds in between is left out as a whole.
            runs = self._database.execute(
                f"SELECT id, {RUN_COLUMNS} FROM runs ORDER BY id"
            ).fetchall()
            epochs: dict[int, dict[int, dict[str, float]]] = {}
            rows = self._database.execute(
                "SELECT run, epoch, metric, value FROM epochs ORDER BY run, epoch, metric"
            ).fetchall()
            for run, number, name, value in msgspec.convert(rows, list[_EpochRow]):
                metrics = epochs.setdefault(run, {}).setdefault(number, {})
                metrics[name] = math.nan if value is None else value
            return [
                _run(row, epochs.get(row[0], {})) for row in msgspec.convert(runs, list[_RunRow])
            ]

    def sessions(self) -> list[dict[str, str]]:
        """Return each environment in which runs were made, with the start of its first session."""
        with self.reading():
            rows = self._database.execute(
                "SELECT started, environment FROM sessions"
                " WHERE id IN (SELECT session FROM runs) ORDER BY id"
            ).fetchall()
            found: dict[str, dict[str, str]] = {}
            for started, text in msgspec.convert(rows, list[tuple[str, str]]):
                environment = msgspec.json.decode(text, type=dict[str, str])
                found.setdefault(text, {"started": started, **environment})
            return list(found.values())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Convert errors of the block into one that says what is wrong with the file.

        The file may hold results, so no message suggests removing it.
        """
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            if "no such" in str(error) or "decode" in str(error):
                raise self._damaged(error) from error
            locked = "locked" in str(error) or "busy" in str(error)
            raise ZeromeanError(
                f"{self.path} cannot be read now ({error}); its results are not affected",
                "End the program that uses the file, and try again"
                if locked
                else "Check the disk, and try again",
            ) from error
        except (
            sqlite3.Error, ValueError, TypeError, KeyError, OverflowError, RecursionError,
        ) as error:  # fmt: skip
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ZeromeanError:
        text = " ".join(str(error).split())[:200]
        return ZeromeanError(
            f"{self.path} is damaged, or is not a study ({text})",
            "Restore the file from a backup, or pass another folder",
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database as database:
                yield database
        except sqlite3.Error as error:
            raise ZeromeanError(
                f"{self.path} cannot be written ({error}); the runs that are stored stay there",
                "Make room on the disk or end the program that uses the file, and give the same"
                " command again",
            ) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()


def _run(row: _RunRow, epochs: Mapping[int, dict[str, float]]) -> Run:
    (_, task, optimizer, method, seed, trial, lr, decay, options, status,
     train_score, test_loss, test_score, failure) = row  # fmt: skip
    values = msgspec.json.decode(options, type=dict[str, float])
    records = tuple(
        Epoch(number, {name: value for name, value in found.items() if name != SECONDS},
              found.get(SECONDS, math.nan))
        for number, found in epochs.items()
    )  # fmt: skip
    if status is RunStatus.DIVERGED and test_score is not None and test_loss is None:
        test_loss = math.nan
    return Run(
        Key(task, optimizer, method, seed, trial),
        Candidate(math.nan if lr is None else lr, decay, tuple(sorted(values.items()))),
        records,
        train_score,
        test_loss,
        test_score,
        failure,
    )

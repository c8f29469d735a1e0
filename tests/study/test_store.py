"""The database: a row a run, all or nothing."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from synthetic import make_run

from zeromean.errors import ZeromeanError
from zeromean.study.store import Store


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(text).fetchall()


def test_a_run_can_be_read_by_others_as_soon_as_it_is_added(tmp_path: Path) -> None:
    path = tmp_path / "new" / "study.sqlite"
    with Store(path, {"settings": json.dumps({"epochs": 2})}) as store:
        store.add(make_run("gc", 4, (0.5, 0.75), seconds=2.0))
        assert query(path, "SELECT method, seed, status, final_accuracy FROM runs") == [
            ("gc", 4, "finished", 0.75)
        ]
        store.add(make_run("plain", 4, (0.1,), diverged=True))
    assert query(path, "SELECT * FROM epochs") == [
        (1, 1, 1.0, 2.0, 0.5, 2.0),
        (1, 2, 0.5, 1.0, 0.75, 2.0),
        (2, 1, None, None, 0.1, 1.0),
    ]
    assert query(path, "SELECT status, seconds_per_epoch FROM runs WHERE id = 2") == [
        ("diverged", 1.0)
    ]
    assert query(path, "SELECT * FROM study") == [("settings", '{"epochs": 2}')]


def test_a_run_that_cannot_be_written_whole_is_not_written_at_all(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    run = make_run("gc", 0, (0.5, 0.6))
    broken = dataclasses.replace(run, seed=1, epochs=(*run.epochs, run.epochs[0]))
    with Store(path, {}) as store:
        store.add(run)
        with pytest.raises(ZeromeanError, match=r"cannot be written .* after 1 run"):
            store.add(broken)
    assert query(path, "SELECT seed FROM runs") == [(0,)]
    assert query(path, "SELECT count(*) FROM epochs") == [(2,)]


def test_an_existing_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    path.write_text("precious")
    with pytest.raises(ZeromeanError, match="cannot be created"):
        Store(path, {})
    assert path.read_text() == "precious"


def test_a_study_without_a_run_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    with Store(path, {}):
        assert path.exists()
    assert not path.exists()


def test_a_start_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("zeromean.study.store.sqlite3.connect", fails)
    with pytest.raises(ZeromeanError, match="disk I/O error"):
        Store(tmp_path / "study.sqlite", {})
    assert not (tmp_path / "study.sqlite").exists()

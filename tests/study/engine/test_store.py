"""The database: a row a run, all or nothing."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from synthetic import make_run

from zeromean.errors import ZeromeanError
from zeromean.study.engine.store import Store


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(text).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "study.sqlite"


def create(path: Path) -> Store:
    store = Store.create(path, {"command": "zeromean compare"})
    store.begin_session({"torch": "2"})
    return store


def test_a_run_can_be_read_by_others_as_soon_as_it_is_added(path: Path) -> None:
    with create(path) as store:
        store.add(make_run("gc", 4, (0.5, 0.75), seconds=2.0))
        assert query(path, "SELECT method, seed, status, test_score FROM runs") == [
            ("gc", 4, "finished", 0.75)
        ]
        store.add(make_run("plain", 4, (0.1,), diverged=True))
    assert query(path, "SELECT * FROM epochs") == [
        (1, 1, 1.0, 2.0, 0.5, 2.0),
        (1, 2, 0.5, 1.0, 0.75, 2.0),
        (2, 1, None, None, 0.1, 1.0),
    ]
    assert query(path, "SELECT status, test_score FROM runs WHERE id = 2") == [("diverged", None)]
    assert query(path, "SELECT * FROM study") == [("command", "zeromean compare")]


def test_what_is_read_is_what_was_added(path: Path) -> None:
    run, broken = make_run("gc", 4, (0.5, 0.75)), make_run("plain", 4, (0.1,), diverged=True)
    with create(path) as store:
        store.add(run)
        store.add(broken)
        first, second = store.runs()
        assert first == run
        assert second.diverged
        assert second.key == broken.key
        assert store.keys() == {run.key, broken.key}
        assert [session["torch"] for session in store.sessions()] == ["2"]


def test_a_run_is_written_once(path: Path) -> None:
    with create(path) as store, create(path) as other:
        store.add(make_run("gc", 0, (0.5, 0.6)))
        other.add(make_run("gc", 0, (0.9, 0.9)))
        assert [run.test_score for run in other.runs()] == [0.6]
    assert query(path, "SELECT count(*) FROM epochs") == [(2,)]


def test_a_run_that_cannot_be_written_whole_is_not_written_at_all(path: Path) -> None:
    run = make_run("gc", 0, (0.5, 0.6))
    broken = dataclasses.replace(
        run, key=run.key._replace(seed=1), epochs=(*run.epochs, run.epochs[0])
    )
    with create(path) as store:
        store.add(run)
        with pytest.raises(ZeromeanError, match=r"cannot be format_number .* after 1 run"):
            store.add(broken)
    assert query(path, "SELECT seed FROM runs") == [(0,)]
    assert query(path, "SELECT count(*) FROM epochs") == [(2,)]


def test_facts_stay_those_of_the_beginning(path: Path) -> None:
    with Store.create(path, {"threads": "1"}), Store.create(path, {"threads": "2"}) as second:
        assert second.facts == {"threads": "1"}


@pytest.mark.parametrize("content", ["precious", "precious" * 200, ""])
def test_a_file_that_is_no_study_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "study.sqlite"
    path.write_text(content)
    with pytest.raises(ZeromeanError, match="holds no study"):
        Store(path)
    if content:
        with pytest.raises(ZeromeanError, match="holds no study"):
            Store.create(path, {})
    assert path.read_text() == content


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZeromeanError, match="cannot be created"):
        Store.create(tmp_path / "file" / "study.sqlite", {})

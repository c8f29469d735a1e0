"""The database: one row per run, all or nothing, and its errors."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from synthetic import make_run

from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study, run
from zeromean.study.engine import checkpoint, results, store
from zeromean.study.engine.checkpoint import Checkpoint
from zeromean.study.engine.store import FORMAT, Store
from zeromean.study.spec.records import FINAL, Candidate, Key, Run, RunStatus


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(text).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "study.sqlite"


def create(path: Path) -> Store:
    made = Store.create(path, {"command": "zeromean compare"})
    made.begin_session({"torch": "2"})
    return made


def test_a_run_can_be_read_by_others_as_soon_as_it_is_added(path: Path) -> None:
    with create(path) as made:
        made.add(make_run("gc", 4, (0.5, 0.75), seconds=2.0))
        assert query(path, "SELECT method, seed, status, test_score FROM runs") == [
            ("gc", 4, "finished", 0.75)
        ]
        made.add(make_run("plain", 4, (0.1,), diverged=True))
    epochs = "SELECT run, epoch, value FROM epochs WHERE metric = "
    assert query(path, f"{epochs} 'score'") == [(1, 1, 0.5), (1, 2, 0.75), (2, 1, 0.1)]
    assert query(path, f"{epochs} 'train_loss'") == [(1, 1, 1.0), (1, 2, 0.5), (2, 1, None)]
    assert query(path, f"{epochs} 'seconds'") == [(1, 1, 2.0), (1, 2, 2.0), (2, 1, 1.0)]
    assert query(path, "SELECT status, test_score FROM runs WHERE id = 2") == [("diverged", None)]
    assert query(path, "SELECT * FROM study") == [
        ("command", "zeromean compare"), ("format", FORMAT),
    ]  # fmt: skip


def test_runs_are_read_as_they_were_added(path: Path) -> None:
    finished, diverged = make_run("gc", 4, (0.5, 0.75)), make_run("plain", 4, (0.1,), diverged=True)
    key = Key("a program", "sgd", "gc", 0)
    failed = Run(key, Candidate(math.nan, None, (("warmup", 0.5),)), (), failure="exit code 1")
    unlucky = dataclasses.replace(finished, key=key._replace(seed=9), test_loss=math.nan)
    with create(path) as made:
        for one in (finished, diverged, failed, unlucky):
            made.add(one)
        first, second, third, fourth = made.runs()
        assert made.keys() == {finished.key, diverged.key, failed.key, unlucky.key}
        assert [session["torch"] for session in made.sessions()] == ["2"]
    assert first == finished
    assert (second.key, second.status) == (diverged.key, RunStatus.DIVERGED)
    assert (third.failure, third.status) == ("exit code 1", RunStatus.FAILED)
    assert (third.candidate.values, third.epochs) == ((("warmup", 0.5),), ())
    assert fourth.status is RunStatus.DIVERGED


def test_a_program_without_losses_has_finished(path: Path) -> None:
    scored = Run(Key("a program", "sgd", "gc", 0, FINAL), Candidate(0.1), (), test_score=0.5)
    assert scored.status is RunStatus.FINISHED
    with create(path) as made:
        made.add(scored)
        assert made.runs() == [scored]


def test_runs_are_written_completely_or_not_at_all(path: Path) -> None:
    one = make_run("gc", 0, (0.5, 0.6))
    broken = dataclasses.replace(
        one, key=one.key._replace(seed=1), epochs=(*one.epochs, one.epochs[0])
    )
    with create(path) as made:
        made.add(one)
        with pytest.raises(ZeromeanError, match=r"cannot be written .* stored stay there"):
            made.add(broken)
    assert query(path, "SELECT seed FROM runs") == [(0,)]
    assert query(path, "SELECT count(DISTINCT epoch) FROM epochs") == [(2,)]


def test_facts_stay_those_of_the_beginning(path: Path) -> None:
    with Store.create(path, {"threads": "1"}), Store.create(path, {"threads": "2"}) as second:
        assert second.facts == {"threads": "1", "format": FORMAT}


@pytest.mark.parametrize("content", ["precious", "precious" * 200])
def test_a_file_that_is_no_study_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "study.sqlite"
    path.write_text(content)
    for use in (Store, lambda path: Store.create(path, {})):
        with pytest.raises(ZeromeanError, match="is damaged, or is not a study"):
            use(path)
    assert path.read_text() == content


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZeromeanError, match="cannot be created"):
        Store.create(tmp_path / "file" / "study.sqlite", {})


def test_a_path_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZeromeanError, match=r"cannot be read now .*name too long"):
        results.read(tmp_path / ("x" * 300))


def test_locked_database_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(path).__exit__()
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            ZeromeanError, match=r"cannot be read now \(database is locked\)"
        ) as one:
            Store(path)
    assert "not affected" in str(one.value)
    assert "remove" not in str(one.value)
    with Store(path) as made, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ZeromeanError, match=r"cannot be written \(database is locked\)"):
            made.begin_session({})


def test_io_error_is_named(path: Path) -> None:
    with create(path) as made:
        with pytest.raises(ZeromeanError, match="disk I/O error") as one, made.reading():
            raise sqlite3.OperationalError("disk I/O error")
        assert "Check the disk" in str(one.value)
        assert "remove" not in str(one.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished study."""
    out = tmp_path_factory.mktemp("finished") / "out"
    study = Study(tasks=(ImageTask(model="mlp", epochs=2, batch_size=20, train_size=50),), seeds=2)
    run(study, out)
    return out


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE study SET value = '{' WHERE key = 'study'",
        "UPDATE study SET value = '[]' WHERE key = 'study'",
        "UPDATE study SET value = '{\"seeds\": 0}' WHERE key = 'study'",
        "UPDATE study SET value = '{\"nonsense\": 0}' WHERE key = 'study'",
        "UPDATE study SET value = replace(value, 'digits', 'figures') WHERE key = 'study'",
        "UPDATE study SET value = '{}' WHERE key = 'tasks'",
        "UPDATE study SET value = '{\"digits/mlp\": 3}' WHERE key = 'tasks'",
        "UPDATE study SET value = x'ff' WHERE key = 'tasks'",
        "UPDATE study SET value = cast(x'ff' AS TEXT) WHERE key = 'tasks'",
        "UPDATE study SET value = 'x' WHERE key = 'threads'",
        "UPDATE study SET value = '[1, \"x\"]' WHERE key = 'threads'",
        "INSERT INTO study VALUES ('begun', '[[1]]')",
        "DELETE FROM study WHERE key = 'study'",
        "DELETE FROM study WHERE key = 'command'",
        "UPDATE runs SET options = '['",
        "UPDATE runs SET test_score = 'x'",
        "UPDATE runs SET learning_rate = x'00'",
        "UPDATE runs SET method = x'00' WHERE id = 1",
        "UPDATE runs SET method = cast(x'ff' AS TEXT) WHERE id = 1",
        "UPDATE epochs SET value = 'high'",
        "UPDATE epochs SET metric = x'00' WHERE metric = 'loss'",
        "UPDATE sessions SET environment = '[]'",
        "UPDATE sessions SET environment = 'x'",
        "DROP TABLE epochs",
        "DROP TABLE sessions",
        "DROP TABLE runs",
        "DROP TABLE study",
        "ALTER TABLE runs DROP COLUMN failure",
    ],
)
def test_damaged_databases_end_in_one_line(finished: Path, tmp_path: Path, change: str) -> None:
    out = copy(finished, tmp_path)
    query(out / "study.sqlite", change)
    with pytest.raises(ZeromeanError, match="is damaged, or is not a study") as caught:
        results.read(out)
    assert "\n" not in str(caught.value)
    assert "remove" not in str(caught.value)


def copy(finished: Path, tmp_path: Path) -> Path:
    out = tmp_path / "copy"
    out.mkdir(exist_ok=True)
    (out / "study.sqlite").write_bytes((finished / "study.sqlite").read_bytes())
    return out


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content with a few bytes changed, a part cut out, doubled or overwritten."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(len(data))
        kind = rng.random()
        if kind < 0.6:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind < 0.75:
            del data[place : place + rng.choice((1, 7, 512, 4096))]
        elif kind < 0.9:
            data[place:place] = data[place : place + rng.choice((1, 7, 512))]
        else:
            size = rng.choice((16, 512))
            data[place : place + size] = rng.randbytes(size)
        if not data:
            break
    return bytes(data)


def fuzz(content: bytes, count: int, check: Callable[[bytes], None]) -> None:
    for seed in range(count):
        rng = random.Random(seed)
        try:
            check(mutated(content, rng))
        except BaseException as error:
            raise AssertionError(f"mutation {seed} raised {type(error).__name__}") from error


@pytest.mark.parametrize("count", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_fuzzed_databases_raise_nothing_but_zeromean_errors(
    finished: Path, tmp_path: Path, count: int
) -> None:
    out = copy(finished, tmp_path)
    content = (out / "study.sqlite").read_bytes()
    study = Study(tasks=(ImageTask(model="mlp", epochs=2, batch_size=20, train_size=50),), seeds=2)

    def check(changed: bytes) -> None:
        (out / "study.sqlite").write_bytes(changed)
        (out / "study.sqlite-journal").unlink(missing_ok=True)
        with suppress(ZeromeanError):
            results.read(out)
        with suppress(ZeromeanError):
            results.missing_runs(study, out)

    fuzz(content, count, check)


@pytest.mark.parametrize("count", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_fuzzed_checkpoints_are_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "work" / "run.pt"
    path.parent.mkdir()
    state = {"network": {"weight": torch.randn(20, 30)}, "epochs": [(1, {"loss": 0.5}, 1.0)]}
    checkpoint.save(path, Checkpoint(3, state))
    content = path.read_bytes()

    def check(changed: bytes) -> None:
        path.write_bytes(changed)
        assert changed == content or checkpoint.load(path) is None

    fuzz(content, count, check)
    path.write_bytes(content)
    turns, found = checkpoint.load(path) or (0, {})
    assert turns == 3
    assert torch.equal(found["network"]["weight"], state["network"]["weight"])  # type: ignore[index]


def test_checkpoints_hold_no_code(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (json.loads, ("1",))

    path = tmp_path / "work" / "run.pt"
    checkpoint.save(path, Checkpoint(1, {"code": Code()}))
    assert checkpoint.load(path) is None


def test_a_file_in_the_place_of_the_checkpoints_is_named(tmp_path: Path) -> None:
    (tmp_path / "work").touch()
    with pytest.raises(ZeromeanError, match="cannot be written"):
        checkpoint.save(tmp_path / "work" / "run.pt", Checkpoint(1, {}))


def test_states_on_the_cpu_keep_the_metadata_of_a_network() -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    moved = checkpoint.to_cpu(state)
    assert moved._metadata == state._metadata  # type: ignore[attr-defined]
    assert moved is not state

"""Several processes, which talk over the loopback: each case as one test."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Case, all_cases, run

CASES = all_cases()


@pytest.fixture(scope="session")
def endings(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[int], dict[str, str]]:
    """How the cases of so many processes ended; run once, also where tests run side by side."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder if worker_id == "master" else folder.parent

    def of(world: int) -> dict[str, str]:
        (shared / f"{world}").mkdir(exist_ok=True)
        file = shared / f"{world}" / "endings.json"
        with (shared / "distributed.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                file.write_text(json.dumps(run(world, file.parent)))
        return json.loads(file.read_text())

    return of


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(
    case: Case,
    endings: Callable[[int], dict[str, str]],
    supports: Callable[[str, str, str, str], None],
) -> None:
    if case.shows:
        supports("Distributed", *case.shows)
    error = endings(case.world)[case.name]
    assert not error, error


def test_a_case_that_fails_is_seen(tmp_path: Path) -> None:
    """On one rank only, and with words on where."""
    found = run(2, tmp_path, modules=["failing"])
    assert found["passes (2 processes)"] == ""
    assert "rank 1" in found["fails (2 processes)"]
    assert "AssertionError: only here" in found["fails (2 processes)"]
    assert "rank 0" not in found["fails (2 processes)"]

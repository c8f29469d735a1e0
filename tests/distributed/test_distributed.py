"""Several processes, which talk over the loopback: each case as one test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from processes import MODULES, Case, all_cases, run

CASES = all_cases()


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How the cases ended, those included that are made to fail."""
    return run(tmp_path_factory.mktemp("cases"), [*MODULES, "failing"])


@pytest.mark.timeout(900)  # the first one runs them all
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(
    case: Case,
    endings: dict[str, str],
    supports: Callable[[str, str, str, str], None],
) -> None:
    if case.shows:
        supports("Distributed", *case.shows)
    error = endings[case.name]
    assert not error, error


def test_a_case_that_fails_is_seen(endings: dict[str, str]) -> None:
    """On one rank only, and with words on where."""
    assert endings["passes (2 processes)"] == ""
    assert "rank 1" in endings["fails (2 processes)"]
    assert "AssertionError: only here" in endings["fails (2 processes)"]
    assert "rank 0" not in endings["fails (2 processes)"]

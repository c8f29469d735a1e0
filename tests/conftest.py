"""Settings for every test, and the table of what the tests have shown to work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A shared machine has slow moments; tests assert no times.
settings.register_profile("zeromean", deadline=None)
settings.load_profile("zeromean")

SUPPORTED = Path(__file__).parents[1] / "docs" / "supported.md"
HEADER = """# What works where

Every row is a test that passed: `make supported` runs the tests and writes this page.

"""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def supports(
    record_property: Callable[[str, object], None],
) -> Callable[[str, str, str, str], None]:
    """Say what a test shows: ``supports(area, what, at, how)``, a row of docs/supported.md.

    ``area`` is "Layer", "Number", "Driver", "Optimizer" or "Distributed"; ``at`` is "gradient",
    "update", "backward" or "-"; ``how`` says in a few words what the test compares. The row counts
    only if the test passes.
    """

    def say(area: str, what: str, at: str, how: str) -> None:
        record_property("supports", (area, what, at, how))

    return say


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--supported", action="store_true", help=f"write {SUPPORTED}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_rows] = {}


_rows = pytest.StashKey[dict[tuple[str, str, str, str], set[str]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    if report.when == "call" and report.passed:
        file = Path(item.path).relative_to(item.config.rootpath).as_posix()
        for name, row in item.user_properties:
            if name == "supports":
                item.config.stash[_rows].setdefault(row, set()).add(file)
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not session.config.getoption("--supported") or exitstatus != 0:
        return
    text = HEADER
    rows = session.config.stash[_rows]
    for area in sorted({row[0] for row in rows}):
        text += f"## {area}\n\n| what | at | tested how | in |\n|---|---|---|---|\n"
        for _, what, at, how in sorted(row for row in rows if row[0] == area):
            files = ", ".join(f"`{file}`" for file in sorted(rows[area, what, at, how]))
            text += f"| {what} | {at} | {how} | {files} |\n"
        text += "\n"
    SUPPORTED.write_text(text.rstrip() + "\n")

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
    torch.set_num_threads(1)  # small tensors; the tests themselves run side by side


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
    if config.getoption("--supported") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SupportTable())


class SupportTable:
    """Collects what passing tests say they show; writes the page if none failed."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            for name, row in report.user_properties:
                if name == "supports":
                    file = report.nodeid.partition("::")[0]
                    self.rows.setdefault(tuple(row), set()).add(file)  # type: ignore[arg-type]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus != 0:
            return
        text = HEADER
        for area in sorted({row[0] for row in self.rows}):
            text += f"## {area}\n\n| what | at | tested how | in |\n|---|---|---|---|\n"
            for row in sorted(row for row in self.rows if row[0] == area):
                files = ", ".join(f"`{file}`" for file in sorted(self.rows[row]))
                text += f"| {' | '.join(row[1:])} | {files} |\n"
            text += "\n"
        SUPPORTED.write_text(text.rstrip() + "\n")

"""Settings for every test, and the table of what the tests have shown to work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from interpreter import prepare_interpreter

# Without a GPU Triton's programs are interpreted; it has to be told before it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from zeromean import kernels
from zeromean.kernels import cpu_backend, triton_backend

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

    ``area`` is "Layer", "Weights", "Number", "Driver", "Optimizer", "Distributed" or "Diagnostic";
    ``at`` is "gradient", "update", "backward" or "-"; ``how`` says in a few words what the test
    compares. The row counts only if the test passes.
    """

    def say(area: str, what: str, at: str, how: str) -> None:
        record_property("supports", (area, what, at, how))

    return say


@pytest.fixture
def native_library() -> None:
    """The native kernels: a machine that can build them has to have them."""
    if cpu_backend.library() is not None:
        return
    if shutil.which("cc") or shutil.which("cl"):
        pytest.fail("the native kernels were not built: make clean, then make test")
    pytest.skip("no C compiler to build the native kernels with")


@pytest.fixture(scope="session")
def triton_interpreter() -> None:
    """Triton, which the dev extra brings where it can be had, interpreting its programs."""
    if not triton_backend.installed():
        pytest.skip("Triton is not installed")
    if not triton_backend.interpreted():
        pytest.skip("a GPU is here, which Triton compiles for")
    prepare_interpreter()


@pytest.fixture
def gpu() -> Iterator[None]:
    """Tensors are made on the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.fixture(
    params=[
        "reference",
        "native",
        "triton",
        pytest.param("triton on a GPU", marks=pytest.mark.gpu),
    ]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once with each backend of the kernels."""
    name = str(request.param).partition(" ")[0]
    if request.param == "native":
        request.getfixturevalue("native_library")
    if request.param == "triton":
        request.getfixturevalue("triton_interpreter")
    if request.param == "triton on a GPU":
        request.getfixturevalue("gpu")
    monkeypatch.setenv("ZEROMEAN_KERNELS", name)
    assert kernels.backend(torch.get_default_device()) == name
    return name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--supported",
        choices=("write", "check"),
        help=f"write {SUPPORTED.name} from a run of all tests, or check what it says",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--supported") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SupportTable(config.getoption("--supported")))


class SupportTable:
    """Collects what passing tests say they show, for a page that says no more and no less."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.rows: dict[tuple[str, ...], set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            for name, row in report.user_properties:
                if name == "supports":
                    file = report.nodeid.partition("::")[0]
                    self.rows.setdefault(tuple(row), set()).add(file)  # type: ignore[arg-type]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus != pytest.ExitCode.OK:
            return
        if self.task == "write":
            SUPPORTED.write_text(self.page())
        elif not SUPPORTED.exists() or SUPPORTED.read_text() != self.page():
            print(f"\n{SUPPORTED} does not say what the tests show: run make supported")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def page(self) -> str:
        text = HEADER
        for area in sorted({row[0] for row in self.rows}):
            text += f"## {area}\n\n| what | at | tested how | in |\n|---|---|---|---|\n"
            for row in sorted(row for row in self.rows if row[0] == area):
                files = ", ".join(f"`{file}`" for file in sorted(self.rows[row]))
                text += f"| {' | '.join(row[1:])} | {files} |\n"
            text += "\n"
        return text.rstrip() + "\n"

"""Fixtures and settings for every test, and the table of what the tests cover."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

from fast_programs import leave_out_compiler
from interpreter import prepare_interpreter

# Without a GPU, Triton interprets its programs; the variable must be set before the import.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# The functions are small, so XLA takes longer to optimize them than they take to run.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

from zeromean import kernels
from zeromean.kernels import shared_library, triton_backend

# TensorBoard would import TensorFlow if it is installed, which takes seconds and aborts because
# Triton has loaded another LLVM.
sys.modules["tensorboard.compat.notf"] = ModuleType("tensorboard.compat.notf")
# A shared machine is slow at times; no test asserts a time.
settings.register_profile("zeromean", deadline=None)
settings.load_profile("zeromean")

TABLE_HEADER = """# What is tested

Each row passed in the run that wrote this page.

"""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tensors are small, and the tests run in parallel


@pytest.fixture
def supports(
    record_property: Callable[[str, object], None],
) -> Callable[[str, str, str, str], None]:
    """Record what a test covers: ``supports(area, what, at, how)`` adds a row to the table.

    ``area`` is "Layer", "Weights", "Number", "Driver", "Optimizer", "Distributed" or "Diagnostic";
    ``at`` is "gradient", "update", "backward" or "-"; ``how`` names what the test compares. The
    row counts only if the test passes.
    """

    def say(area: str, what: str, at: str, how: str) -> None:
        record_property("supports", (area, what, at, how))

    return say


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes that do not load torch's compiler."""
    leave_out_compiler(monkeypatch)


@pytest.fixture
def native_library() -> None:
    """Require the native kernels; fail on a machine with a compiler that did not build them."""
    if shared_library.library() is not None:
        return
    if shutil.which("cc") or shutil.which("cl"):
        pytest.fail("the native kernels were not built: make clean, then make test")
    pytest.skip("no C compiler to build the native kernels with")


@pytest.fixture(scope="session")
def triton_interpreter() -> None:
    """Require Triton with its interpreter."""
    if not triton_backend.installed():
        pytest.skip("Triton is not installed")
    if not triton_backend.interpreted():
        pytest.skip("Triton compiles for the GPU of this machine")
    prepare_interpreter()


@pytest.fixture
def mismatched_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make timm fail as it does with a torchvision that was built for another torch."""
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[Path], str]:
    """Return a function that opens a page in Chromium and returns its document once it is idle."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("there is no Chromium here")

    def open_page(page: Path) -> str:
        return subprocess.run(
            (
                *(program, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                *("--allow-file-access-from-files", "--virtual-time-budget=60000"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()),
            ),
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return open_page


@pytest.fixture
def gpu() -> Iterator[None]:
    """Create tensors on the GPU by default."""
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.fixture(
    params=[
        "reference",
        "native",
        # Triton's interpreter is slow; test_triton.py runs each path once.
        pytest.param("triton", marks=pytest.mark.slow),
        pytest.param("triton on a GPU", marks=pytest.mark.gpu),
    ]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test once with each backend of the kernels."""
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


# A file begun late would leave one worker alone at the end.
LONGEST = (
    "tests/on_keras/test_backends.py",
    "tests/programs/test_compare_programs.py",
    "tests/study/engine/test_ray_executor.py",
    "tests/vision/test_vision.py",
    "tests/distributed/test_distributed.py",
    "tests/study/test_reproduce_cli.py",
    "tests/programs/test_run_scripts.py",
    "tests/study/test_compare_cli.py",
)


# Modules and tests stay to the end, so the garbage collector need not search them.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else triton's bindings report leaks at the exit


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, and deselect the GPU tests on a machine without a GPU."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
    if torch.cuda.is_available():
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--supported", type=Path, help="write the table of what is tested to a file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--supported")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SupportTable(path))


class SupportTable:
    """Collects the rows that passing tests record and writes them as a page of Markdown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            for name, row in report.user_properties:
                if name == "supports":
                    file = report.nodeid.partition("::")[0]
                    self.rows.setdefault(tuple(row), set()).add(file)  # type: ignore[arg-type]

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.page())

    def page(self) -> str:
        text, places = TABLE_HEADER, defaultdict(list)
        for area, what, at, how in sorted(self.rows):
            files = ", ".join(f"`{file}`" for file in sorted(self.rows[area, what, at, how]))
            places[area, files, what, how].append(at)
        for (area, files), rows in groupby(sorted(places), lambda row: row[:2]):
            if f"## {area}\n" not in text:
                text += f"## {area}\n\n"
            text += f"In {files}:\n\n| what | at | tested how |\n|---|---|---|\n"
            for row in rows:
                text += f"| {row[2]} | {', '.join(places[row])} | {row[3]} |\n"
            text += "\n"
        return text.rstrip() + "\n"

"""The package surface: lazy imports, public names, and messages about missing extras."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import zeromean
from zeromean.errors import MissingExtraError, needs_extra

FRAMEWORKS = ("torch", "numpy", "jax", "keras", "tensorflow", "lightning", "mmengine")
MODULES = ("compat", "fan_in", "nn", "optim", "reparam")
MODULES_OF_EXTRAS = {
    "diagnose": "study",
    "jax": "jax",
    "keras": "keras",
    "lightning": "lightning",
    "mmengine": "mmengine",
    "study": "study",
    "transformers": "transformers",
}

# Makes the packages of all extras unavailable.
TORCH_ALONE = """
import sys

sys.modules.update(dict.fromkeys({
    "PIL", "accelerate", "datasets", "flax", "jax", "jinja2", "keras", "lightning", "matplotlib",
    "mmengine", "msgspec", "numpy", "optax", "platformdirs", "psutil", "pytorch_lightning", "rich",
    "scipy", "sklearn", "statsmodels", "tensorflow", "transformers", "typer",
}))
"""


def run(code: str) -> str:
    """Run code in a new process without warnings, and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"KERAS_BACKEND": "torch"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    ["import zeromean", "import zeromean.plan", "from zeromean import FanIn, Plan, ZeromeanError"],
)
def test_plans_load_no_framework(statement: str) -> None:
    assert (
        run(f"import sys; {statement}; print([m for m in {FRAMEWORKS} if m in sys.modules])")
        == "[]"
    )


def test_heavy_modules_load_late() -> None:
    code = """
import sys
from zeromean import centralize, explain, center
heavy = ["scipy", "sklearn", "matplotlib", "rich", "typer", "zeromean.study", "torch._dynamo"]
print([m for m in heavy if m in sys.modules])
import zeromean.study.engine.executors
print([m for m in ("sklearn", "scipy", "matplotlib", "torch._dynamo") if m in sys.modules])
"""
    assert run(code).splitlines() == ["[]", "[]"]


def test_public_names_have_docstrings() -> None:
    assert dir(zeromean) == sorted(zeromean.__all__)
    for name in zeromean.__all__:
        assert getattr(zeromean, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'middle'"):
        zeromean.middle  # noqa: B018


@pytest.mark.parametrize("name", [*MODULES, *MODULES_OF_EXTRAS])
def test_modules_show_public_names_only(name: str) -> None:
    module = getattr(zeromean, name)
    assert dir(module) == sorted(module.__all__)
    for public in module.__all__:
        getattr(module, public)


def test_the_package_works_with_torch_alone() -> None:
    code = """
import inspect, pydoc
import zeromean
from zeromean import *
assert "centralize" in pydoc.render_doc(zeromean)
members = dict(inspect.getmembers(zeromean))
print(members["centralize"] is centralize, members["optim"].AdamW.__name__)
"""
    assert run(f"{TORCH_ALONE}\n{code}") == "True AdamW"


def test_a_missing_extra_is_named() -> None:
    code = f"""
import importlib
import zeromean
for name in {list(MODULES_OF_EXTRAS)}:
    calls = lambda: importlib.import_module("zeromean." + name), lambda: getattr(zeromean, name)
    for call in calls:
        try:
            call()
        except ImportError as error:
            print(f"{{type(error).__name__}}: {{error}}")
"""
    lines = run(f"{TORCH_ALONE}\n{code}").splitlines()
    assert len(lines) == 2 * len(MODULES_OF_EXTRAS)
    for number, (name, extra) in enumerate(MODULES_OF_EXTRAS.items()):
        for line in lines[2 * number : 2 * number + 2]:
            assert line.startswith(f"MissingExtraError: zeromean.{name} needs the package ")
            assert line.endswith(f"Run pip install 'zeromean[{extra}]'.")


def test_a_missing_extra_of_a_report_is_named() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
try:
    from zeromean.study import write_report
except ImportError as error:
    print(error)
"""
    found = run(code)
    assert found.startswith("zeromean.study.write_report needs the package matplotlib")
    assert found.endswith("Run pip install 'zeromean[study]'.")


def test_other_import_errors_name_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("study", "a study"):
        importlib.import_module("zeromean.no_such_module")
    with pytest.raises(ModuleNotFoundError), needs_extra("keras", "zeromean.keras", "keras"):
        importlib.import_module("no_such_backend")
    missing = pytest.raises(MissingExtraError, match=r"zeromean\.keras needs the package no_such")
    with missing, needs_extra("keras", "zeromean.keras"):
        importlib.import_module("no_such_backend")
    missing = pytest.raises(MissingExtraError, match=r"the extra jax \(jax requires jaxlib\)")
    with missing, needs_extra("jax", "zeromean.jax", "jax"):
        raise ModuleNotFoundError("jax requires jaxlib")


def test_optim_points_to_centralize_for_other_optimizers() -> None:
    with pytest.raises(AttributeError, match=r"zeromean\.centralize\(torch\.optim\.NAdam\("):
        zeromean.optim.NAdam  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'Nadamm'$"):
        zeromean.optim.Nadamm  # noqa: B018

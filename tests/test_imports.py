"""What importing zeromean costs: no framework before a name that needs it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import zeromean

FRAMEWORKS = ("torch", "numpy", "jax", "keras", "tensorflow", "lightning", "mmengine")


@pytest.mark.parametrize(
    "statement",
    ["import zeromean", "import zeromean.plan", "from zeromean import FanIn, Plan, ZeromeanError"],
)
def test_the_idea_loads_no_framework(statement: str) -> None:
    probe = f"import sys; {statement}; print([m for m in {FRAMEWORKS} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"


def test_centralize_loads_torch_alone() -> None:
    heavy = ("scipy", "sklearn", "matplotlib", "rich", "typer", "zeromean.study")
    probe = (
        "import sys; from zeromean import centralize, explain, center;"
        f" print([m for m in {heavy} if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert set(zeromean.__all__) <= set(dir(zeromean))
    for name in zeromean.__all__:
        assert getattr(zeromean, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'centre'"):
        zeromean.centre  # noqa: B018

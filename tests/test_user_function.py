"""Functions of the user, by the name of their module or file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeromean.errors import ZeromeanError
from zeromean.user_function import load_function


@pytest.fixture(autouse=True)
def _imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_each_file_imports_from_its_own_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "sibling.py").write_text("from parts.names import NAME\n")
        (tmp_path / name / "parts" / "names.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "task.py").write_text("import sibling\ndef f(): return sibling.NAME\n")
    functions = [load_function(f"{name}/task.py:f") for name in "aba"]
    assert [function() for function in functions] == ["a", "b", "a"]
    for function in functions[1:]:  # as pickle finds it
        assert sys.modules[function.__module__].f is function


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("./task:f", r"there is no module \./task"),
        ("x" * 300 + ".py:f", "there is no file x"),
        ("needs.py:f", "needs.py imports no_such_module, which is not installed"),
        ("needs:f", "needs imports no_such_module, which is not installed"),
        ("needs.nothing:f", "needs.nothing imports no_such_module, which is not installed"),
    ],
)
def test_errors_name_what_is_missing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "needs.py").write_text("import no_such_module\n")
    with pytest.raises(ZeromeanError, match=message):
        load_function(text)


@pytest.mark.parametrize("text", ["own.py:f", "own:f"])
def test_own_error_of_a_module_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.py").write_text("raise ModuleNotFoundError('run make data first')\n")
    with pytest.raises(ModuleNotFoundError, match="run make data first"):
        load_function(text)

"""Load a function of the user from ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_function(text: str) -> Any:
    """Return what a text names; the current folder and the file's own can hold its imports.

    Raises:
        ModuleNotFoundError: There is no such module.
        FileNotFoundError: There is no such file.
        AttributeError: It has no such function.
        Exception: Whatever the user's code raises when it is imported.
    """
    place, _, name = text.rpartition(":")
    return getattr(_module(place), name)


def _module(place: str) -> ModuleType:
    _search(Path.cwd())
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    _search(path.parent)
    name = f"zeromean_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

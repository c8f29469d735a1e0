"""Load a function of the user from ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from zeromean.errors import ZeromeanError

# Folders of the files that were loaded.
_folders: set[Path] = set()


def load_function(text: str) -> Callable[[], Any]:
    """Return the function without arguments that a text names.

    Its imports may be in the current folder or next to the file.

    Args:
        text: ``module:function`` or ``file.py:function``.

    Raises:
        ZeromeanError: There is no such file, module or function, a module that it imports is not
            installed, or the function cannot be called without arguments.
        Exception: Whatever the user's code raises when it is imported.
    """
    place, _, name = text.rpartition(":")
    module = _module(place)
    if not hasattr(module, name):
        raise ZeromeanError(f"{place} has no function {name}", "Check the name")
    function: Callable[[], Any] = getattr(module, name)
    if not callable(function):
        raise ZeromeanError(
            f"{text} is not a function but of type {type(function).__name__}", "Name a function"
        )
    if not accepts(function):
        raise ZeromeanError(
            f"{text} is called without arguments, but it is {name}{inspect.signature(function)}",
            "Give its arguments default values, or write a function around it",
        )
    return function


def accepts(function: Callable[..., Any], *arguments: object) -> bool:
    """Return whether a function can be called with these positional arguments.

    Example:
        >>> accepts(lambda name: True, "name"), accepts(lambda name: True)
        (True, False)
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # unknown, as for some functions written in C
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _module(place: str) -> ModuleType:
    _search_first(Path.cwd())
    file = place.endswith(".py")
    if place.startswith(".") and not file:
        raise _no_module(place)
    try:
        return _module_of_file(place) if file else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None:  # raised by the user's code, with a text of its own
            raise
        if not file and f"{place}.".startswith(f"{error.name}."):
            raise _no_module(error.name) from error
        raise ZeromeanError(
            f"{place} imports {error.name}, which is not installed",
            "Install it, or start in the folder that holds it",
        ) from error


def _no_module(name: str) -> ZeromeanError:
    return ZeromeanError(
        f"there is no module {name}", "Start in the folder that holds it, or pass file.py:function"
    )


def _module_of_file(place: str) -> ModuleType:
    if not os.path.isfile(place):  # False, unlike Path.is_file, if the name is too long
        raise ZeromeanError(f"there is no file {place}", "Check the path")
    path = Path(place).resolve()
    _forget_modules_of_other_folders(path.parent)
    _search_first(path.parent)
    name = f"zeromean_file_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget_modules_of_other_folders(folder: Path) -> None:
    """Let a file import ``model`` from its folder, even if another file has imported its own."""
    own = {path.stem for path in folder.iterdir()}
    for name, module in [*sys.modules.items()]:
        origin = getattr(module, "__file__", None)
        if name.partition(".")[0] in own and origin is not None:
            above = Path(origin).parents
            if folder not in above and not _folders.isdisjoint(above):
                del sys.modules[name]
    _folders.add(folder)


def _search_first(folder: Path) -> None:
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))

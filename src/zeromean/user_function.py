"""Load a function of the user from ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from zeromean.errors import ZeromeanError


def load_function(text: str) -> Callable[[], Any]:
    """Return the function without arguments that a text names.

    The current folder and the file's own can hold its imports.

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
    _search(Path.cwd())
    if place.endswith(".py"):
        return _module_of_file(place)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if not f"{place}.".startswith(f"{error.name}."):
            raise _not_installed(place, error) from error
        raise ZeromeanError(
            f"there is no module {error.name}",
            "Start in the folder that holds it, or pass file.py:function",
        ) from error


def _module_of_file(place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ZeromeanError(f"there is no file {place}", "Check the path")
    _search(path.parent)
    name = f"zeromean_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise _not_installed(place, error) from error
    return module


def _not_installed(place: str, error: ModuleNotFoundError) -> ZeromeanError:
    return ZeromeanError(
        f"{place} imports {error.name}, which is not installed",
        "Install it, or start in the folder that holds it",
    )


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

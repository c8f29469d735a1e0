"""The error and warning classes of zeromean."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MissingExtraError", "ZeromeanError", "ZeromeanWarning"]


class ZeromeanError(Exception):
    """The base class of every error that zeromean raises.

    Args:
        problem: One sentence without a final period: what was given, and what is allowed.
        fix: One instruction without a final period: what to change.

    Example:
        >>> import zeromean
        >>> print(zeromean.ZeromeanError("seeds is 0; at least 1 is needed", "Raise seeds"))
        seeds is 0; at least 1 is needed. Raise seeds.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}. {self.fix}."


class MissingExtraError(ZeromeanError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class ZeromeanWarning(UserWarning):
    """A setting that is allowed but probably not intended; the message says what to do."""


@contextmanager
def needs_extra(extra: str, what: str, *packages: str) -> Iterator[None]:
    """Turn a failed import inside the ``with`` block into an error that names the extra.

    Args:
        extra: Extra of zeromean that installs the packages.
        what: Module or feature that needs the packages.
        packages: Packages of the extra; if empty, every missing package counts as one of them.

    Raises:
        MissingExtraError: A package is not installed.

    Example:
        >>> with needs_extra("jax", "zeromean.jax"):
        ...     import no_such_module
        Traceback (most recent call last):
        zeromean.errors.MissingExtraError: zeromean.jax needs the package no_such_module, ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "zeromean" or (package and packages and package not in packages):
            raise
        # A package that reports a missing dependency itself, as jax does, may give no name.
        needed = f"the package {error.name}" if error.name else f"the extra {extra} ({error})"
        raise MissingExtraError(
            f"{what} needs {needed}, which is not installed",
            f"Run pip install 'zeromean[{extra}]'",
        ) from error


def warn(message: str) -> None:
    """Warn at the first caller outside zeromean and the framework that calls it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and _is_internal(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ZeromeanWarning, stacklevel=level)


def _is_internal(module: str) -> bool:
    return module.partition(".")[0] in ("zeromean", "torch", "keras", "contextlib")

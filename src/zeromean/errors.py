"""What zeromean raises and what it warns with."""

from __future__ import annotations

import sys
import warnings


class ZeromeanError(Exception):
    """Every error that zeromean raises: what was got, what was wanted, and the fix.

    Args:
        got: What the caller passed, or the state that was found.
        wanted: What would have been accepted.
        fix: What to change, as an instruction.

    Example:
        >>> import zeromean
        >>> raise zeromean.ZeromeanError("at='forward'", "at='gradient'", "drop the option")
        Traceback (most recent call last):
        zeromean.errors.ZeromeanError: got at='forward'; wanted at='gradient'; fix: drop the option
    """

    def __init__(self, got: str, wanted: str, fix: str) -> None:
        super().__init__(got, wanted, fix)
        self.got = got
        self.wanted = wanted
        self.fix = fix

    def __str__(self) -> str:
        return f"got {self.got}; wanted {self.wanted}; fix: {self.fix}"


class ZeromeanWarning(UserWarning):
    """Something is allowed but probably not meant; the message says what to do."""


def warn(message: str) -> None:
    """Warn with the line that led here, outside zeromean and the framework that calls it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and _is_between(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ZeromeanWarning, stacklevel=level)


def _is_between(module: str) -> bool:
    return module.partition(".")[0] in ("zeromean", "torch", "keras", "contextlib")

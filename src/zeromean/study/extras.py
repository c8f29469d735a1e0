"""What only some studies need is installed by extras of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zeromean.errors import ZeromeanError


@contextmanager
def of_extra(extra: str, what: str) -> Iterator[None]:
    """Around an import: says which extra brings the module, where it is not there.

    Args:
        extra: Its name.
        what: That needs it.

    Raises:
        ZeromeanError: The module is not installed.

    Example:
        >>> with of_extra("tuning", "search optuna"):
        ...     import no_such_module
        Traceback (most recent call last):
        zeromean.errors.ZeromeanError: got search optuna without the module no_such_module; ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ZeromeanError(
            f"{what} without the module {error.name}",
            f"what the extra {extra} brings",
            f"pip install 'zeromean[{extra}]'",
        ) from error

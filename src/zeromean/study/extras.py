"""Libraries that only some studies need, each installed by an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zeromean.errors import ZeromeanError


@contextmanager
def of_extra(extra: str, what: str) -> Iterator[None]:
    """Say which extra installs a module if the block cannot import it.

    Args:
        extra: Name of the extra.
        what: The feature that needs it.

    Raises:
        ZeromeanError: The module is not installed.

    Example:
        >>> with of_extra("tuning", "search optuna"):
        ...     import no_such_module
        Traceback (most recent call last):
        zeromean.errors.ZeromeanError: search optuna needs the module no_such_module, ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ZeromeanError(
            f"{what} needs the module {error.name}, which is not installed",
            f"Install it by pip install 'zeromean[{extra}]'",
        ) from error

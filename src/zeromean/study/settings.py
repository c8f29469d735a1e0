"""What is refused of a setting, and how it is told which one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from zeromean.errors import ZeromeanError

LARGEST_FLOAT32 = 3.4e38


class SettingError(ZeromeanError):
    """A setting that cannot be used, with its name, so that a file's line can be told.

    Args:
        setting: The name of the field.
        got, wanted, fix: As in every :class:`zeromean.ZeromeanError`.
    """

    def __init__(self, setting: str, got: str, wanted: str, fix: str) -> None:
        super().__init__(got, wanted, fix)
        self.setting = setting


@contextmanager
def blaming(setting: str) -> Iterator[None]:
    """Around what reads a setting: its errors are that setting's."""
    try:
        yield
    except ZeromeanError as error:
        raise SettingError(setting, error.got, error.wanted, error.fix) from error


def check_name(what: str, name: str, known: Iterable[str], setting: str | None = None) -> None:
    """Refuses an unknown name."""
    if name not in known:
        raise SettingError(
            setting or what, f"{what} {name!r}", ", ".join(known), f"name one of these {what}s"
        )


def check_at_least(name: str, number: int, least: int) -> None:
    """Refuses a number below the least."""
    if number < least:
        raise SettingError(name, f"{name} = {number}", f"{least} or more", "raise it")


def check_unlike(name: str, values: Iterable[Any]) -> None:
    """Refuses values of which two are alike, or none."""
    counts = Counter(values)
    if not counts:
        raise SettingError(name, f"no {name}", "one or more", "name one")
    repeated = [value for value, count in counts.items() if count > 1]
    if repeated:
        raise SettingError(
            name,
            f"{name} {', '.join(map(str, counts))} with {repeated[0]} repeated",
            f"each {name[:-1]} once",
            f"name {repeated[0]} once",
        )

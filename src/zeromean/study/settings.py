"""What is refused of a setting, and how it is told which one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from zeromean.errors import ZeromeanError

LARGEST_FLOAT32 = 3.4e38


class SettingError(ZeromeanError):
    """A setting that cannot be used, with its name.

    By the name a file's line can be told; and where the settings are not the user's, a fix that
    does not speak of changing them (:meth:`settled`).

    Args:
        setting: The name of the field.
        got, wanted: As in every :class:`zeromean.ZeromeanError`.
        fix: What to do about the setting.
        instead: What else helps, whoever has set it; empty for nothing that is known.

    Example:
        >>> error = SettingError("gray", "gray images", "others", "leave it out", "use others")
        >>> print(error)
        got gray images; wanted others; fix: leave it out, or use others
        >>> print(error.settled("in the file f"))
        got gray images; wanted others; fix: use others, or change gray in the file f
    """

    def __init__(self, setting: str, got: str, wanted: str, fix: str, instead: str = "") -> None:
        super().__init__(got, wanted, f"{fix}, or {instead}" if instead else fix)
        # Of these a copy in another process is made.
        self.args = (setting, got, wanted, fix, instead)
        self.setting = setting
        self.instead = instead

    def settled(self, where: str) -> ZeromeanError:
        """The same, told to a user who has not set it.

        Args:
            where: It can be changed, such as ``in the file f``.
        """
        change = f"change {self.setting} {where}"
        fix = f"{self.instead}, or {change}" if self.instead else change
        return ZeromeanError(self.got, self.wanted, fix)


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


def check_at_most(name: str, number: int, most: int) -> None:
    """Refuses a number above the most."""
    if number > most:
        raise SettingError(name, f"{name} = {number}", f"{most} or fewer", "lower it")


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

"""The base class of the parts of a study, and the checks that they share."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from zeromean.errors import ZeromeanError

LARGEST_FLOAT32 = 3.4e38
_Built = TypeVar("_Built", bound="Spec")


class SettingError(ZeromeanError):
    """An error about one setting, which callers can look up by its name.

    Args:
        setting: The name of the field.
        problem: One sentence without a final period.
        fix: One instruction about the setting, without a final period.
        instead: One instruction that helps a user who did not choose the setting, or an empty text.

    Example:
        >>> error = SettingError("gray", "The images are gray", "Drop gray", instead="Pass others")
        >>> print(error)
        The images are gray. Drop gray, or pass others.
        >>> print(error.settled("in the file f"))
        The images are gray. Pass others, or change gray in the file f.
    """

    def __init__(self, setting: str, problem: str, fix: str, instead: str = "") -> None:
        super().__init__(problem, f"{fix}, or {_lower(instead)}" if instead else fix)
        self.args = (setting, problem, fix, instead)  # a copy in another process is made of these
        self.setting, self.instead = setting, instead

    def within(self, place: str) -> SettingError:
        """Return the same error with the place of the setting, such as ``tasks[0]``."""
        setting, problem, fix, instead = self.args
        return SettingError(setting, f"{place}: {problem}", fix, instead)

    def settled(self, where: str) -> ZeromeanError:
        """Return the error for a user who did not choose the setting.

        Args:
            where: The place where the setting can be changed, such as ``in the file f``.
        """
        change = f"hange {self.setting} {where}"
        fix = f"{self.instead}, or c{change}" if self.instead else f"C{change}"
        return ZeromeanError(self.problem, fix)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a study.

    Values are converted to the types of their fields, so that Python code, the command line and
    study files go through the same checks.
    """

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            value = self._resolve(field.name, getattr(self, field.name))
            names = _names(field.type)
            if names and isinstance(value, str):
                check_name(field.name, value, names)
            try:
                converted = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise SettingError(
                    field.name,
                    f"{field.name} is {_shown(value)}, but {_plain(error)}",
                    f"Correct {field.name}",
                ) from error
            for text in converted if isinstance(converted, tuple) else (converted,):
                _check_text(field.name, text)
            msgspec.structs.force_setattr(self, field.name, converted)
        self._check()

    @property
    def changed(self) -> list[str]:
        """Names of the fields whose value is not their default."""
        names, defaults = self.__struct_fields__, self.__struct_defaults__
        padded = [*[msgspec.NODEFAULT] * (len(names) - len(defaults)), *defaults]
        return [
            name
            for name, default in zip(names, padded, strict=True)
            if getattr(self, name) != default
        ]

    def _resolve(self, name: str, value: Any) -> Any:
        """Return the value of a field that a short name or a table stands for."""
        return value

    def _check(self) -> None:
        """Raise a :class:`SettingError` if the values do not go together."""


def build(cls: type[_Built], table: Mapping[str, Any], place: str = "") -> _Built:
    """Return the value that a table describes.

    Args:
        cls: The class of the value.
        table: The values of its fields.
        place: The place of the table in its file, for messages.

    Raises:
        ZeromeanError: A key is unknown or missing, or a value is not allowed.
    """
    try:
        fields = {field.name: field for field in msgspec.structs.fields(cls)}
        for key in table:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, 1)
                raise SettingError(
                    str(key),
                    f"{key!r} is not one of the keys {', '.join(fields)}",
                    f"Write {near[0]}" if near else f"Remove {key!r}",
                )
        for name, field in fields.items():
            if field.required and name not in table:
                raise SettingError(name, f"{name} is missing", f"Add {name}")
        return cls(**table)
    except SettingError as error:
        if not place:
            raise
        raise error.within(place) from error


def check_name(setting: str, name: str, known: Iterable[str]) -> None:
    """Raise if the name is unknown."""
    known = tuple(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or known[:1]
        raise SettingError(
            setting,
            f"{setting} {name!r} is not one of {', '.join(known)}",
            f"Use one of these, such as {near[0]}",
        )


def check_range(
    setting: str, number: float, least: float, most: float, *, exclusive: bool = False
) -> None:
    """Raise if the number is not within the bounds.

    Args:
        setting: The name of the field.
        number: Its value.
        least: The lowest allowed value.
        most: The highest allowed value.
        exclusive: Whether the lowest value itself is not allowed.
    """
    if not (least < number if exclusive else least <= number) or not number <= most:
        above = "above" if exclusive else "at least"
        verb = "Raise" if number <= least else "Lower" if number > most else "Change"
        raise SettingError(
            setting,
            f"{setting} is {_shown(number)}; it has to be {above} {least:g} and at most {most:g}",
            f"{verb} {setting}",
        )


def check_distinct(setting: str, values: Iterable[Any], fix: str = "Keep it once") -> None:
    """Raise if a value is repeated, or if there is none."""
    counts = Counter(values)
    if not counts:
        raise SettingError(setting, f"{setting} is empty", "Name at least one")
    for value, count in counts.items():
        if count > 1:
            raise SettingError(setting, f"{value} appears {count} times in {setting}", fix)


def _names(kind: Any) -> tuple[str, ...]:
    """Return the names that a field of type ``Literal[...]``, or that or None, can have."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next(filter(None, map(_names, get_args(kind))), ())


def _check_text(setting: str, value: Any) -> None:
    """Raise for characters that neither terminals, paths nor databases can hold."""
    if not isinstance(value, str):
        return
    bad = [one for one in value if unicodedata.category(one) in ("Cc", "Cs")]
    if bad and not (setting == "note" and set(bad) <= set("\n\t")):
        raise SettingError(setting, f"{setting} contains the character {bad[0]!a}", "Remove it")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "an integer with thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(error: msgspec.ValidationError) -> str:
    """Return msgspec's message in words, without its path."""
    text = str(error).partition(" - at `$")[0].replace(" | null", "")
    for name, words in (
        ("`str`", "a text"), ("`int`", "a whole number"), ("`float`", "a number"),
        ("`bool`", "true or false"), ("`array`", "a list"), ("`object`", "a table"),
        ("`null`", "nothing"), ("`Schedule`", "a schedule"),
    ):  # fmt: skip
        text = text.replace(name, words)
    return text.replace("Expected", "it has to be", 1).replace(", got", ", not")

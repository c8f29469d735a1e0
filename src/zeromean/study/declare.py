"""A study from a readable file, and back; an error points at the line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from zeromean.errors import ZeromeanError
from zeromean.study.settings import SettingError
from zeromean.study.study import Study
from zeromean.study.task import Task
from zeromean.study.tuning import Tuning

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Declared = TypeVar("_Declared", Study, Task, Tuning)


def read(path: Path) -> Study:
    """The study that a TOML file declares.

    Its keys are the arguments of :class:`zeromean.study.Study`; each task is a table
    ``[[tasks]]`` with those of :class:`zeromean.study.Task`, and ``[tuning]`` has those of
    :class:`zeromean.study.Tuning`.

    Raises:
        ZeromeanError: The file cannot be read, is not TOML, or declares no possible study; the
            message has the line.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), "study.toml")
        >>> _ = file.write_text('seeds = 3' + chr(10) + '[[tasks]]' + chr(10) + 'epoch = 9')
        >>> read(file)
        Traceback (most recent call last):
        zeromean.errors.ZeromeanError: got ...study.toml, line 3: epoch, ...
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ZeromeanError(
            f"{path}, which cannot be read ({error})", "a TOML file", "check the path"
        ) from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ZeromeanError(f"{path}: {error}", "a TOML file", "mend that line") from error
    return _study(table, Lines(path, text))


def from_table(table: Mapping[str, Any]) -> Study:
    """The study of a table that :func:`as_table` made."""
    return _study(table, None)


class Lines:
    """Where in a file a key is."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._places: dict[tuple[str, int, str], int] = {}
        table, seen = "", {"": 0}
        for number, line in enumerate(text.splitlines(), start=1):
            if header := re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]", line):
                table = header[1]
                seen[table] = seen.get(table, -1) + 1
                self._places[table, seen[table], ""] = number
            elif key := re.match(r"""\s*["']?([\w-]+)["']?\s*=""", line):
                self._places.setdefault((table, seen[table], key[1]), number)

    def where(self, table: str, index: int, key: str) -> str:
        """The file, with the line of the key, or else of its table, where it has one."""
        places = ((table, index, key), (table, index, ""), ("", 0, table))  # the last: inline
        number = next((self._places[one] for one in places if one in self._places), None)
        return f"{self._path}" + (f", line {number}" if number else "")


def _study(table: Mapping[str, Any], lines: Lines | None) -> Study:
    values = dict(table)
    tasks = values.pop("tasks", None)
    if tasks is not None:
        if not (isinstance(tasks, list) and all(isinstance(one, dict) for one in tasks)):
            where = lines.where("", 0, "tasks") if lines else "tasks"
            raise ZeromeanError(
                f"{where}: tasks = {tasks!r}", "tables", "write each task below its own [[tasks]]"
            )
        values["tasks"] = tuple(
            _build(Task, one, lines, "tasks", index) for index, one in enumerate(tasks)
        )
    if isinstance(values.get("tuning"), dict):
        values["tuning"] = _build(Tuning, values["tuning"], lines, "tuning", 0)
    return _build(Study, values, lines, "", 0)


def _build(
    cls: type[_Declared], values: Mapping[str, Any], lines: Lines | None, table: str, index: int
) -> _Declared:
    def refuse(key: str, got: str, wanted: str, fix: str) -> ZeromeanError:
        place = f"{lines.where(table, index, key)}: " if lines else ""
        return ZeromeanError(f"{place}{got}", wanted, fix)

    kinds = get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in kinds:
            known = ", ".join(one.name for one in fields(cls))
            raise refuse(key, f"{key}, which no {cls.__name__.lower()} has", known, "mend the name")
        arguments[key] = _converted(value, kinds[key])
        if arguments[key] is _WRONG:
            raise refuse(key, f"{key} = {value!r}", _words(kinds[key]), "mend the value")
    for one in fields(cls):
        required = one.default is MISSING and one.default_factory is MISSING
        if required and one.name not in arguments:
            raise refuse(one.name, f"{table} without {one.name}", _words(kinds[one.name]), "add it")
    try:
        return cls(**arguments)
    except SettingError as error:
        raise refuse(error.setting, error.got, error.wanted, error.fix) from error


_WRONG = object()


def _converted(value: Any, kind: Any) -> Any:
    """The value as the field holds it; ``_WRONG`` where it is of another kind."""
    if get_origin(kind) in (Union, UnionType):
        found = (_converted(value, one) for one in get_args(kind))
        return next((one for one in found if one is not _WRONG), _WRONG)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            return _WRONG
        items = tuple(_converted(one, get_args(kind)[0]) for one in value)
        return _WRONG if _WRONG in items else items
    if kind is float and type(value) is int:
        return float(value)
    if kind is type(None):
        return None if value is None else _WRONG
    return value if type(value) is kind else _WRONG


def _words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(one) for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is tuple:
        return f"a list, each {_words(get_args(kind)[0])}"
    return {
        str: "a text",
        int: "a whole number",
        bool: "true or false",
        float: "a number",
        Tuning: "a table",
    }[kind]


def as_table(study: Study) -> dict[str, Any]:
    """The study as a file or a database holds it; what is None is left out."""
    table = {**_table(study), "tasks": [_table(task) for task in study.tasks]}
    if study.tuning is not None:
        table["tuning"] = _table(study.tuning)
    return table


def _table(declared: Study | Task | Tuning) -> dict[str, Any]:
    values = {one.name: getattr(declared, one.name) for one in fields(declared)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }


def as_toml(study: Study) -> str:
    """The file that declares the study."""
    table = as_table(study)
    tasks, tuning = table.pop("tasks"), table.pop("tuning", None)

    def text(one: Mapping[str, Any]) -> str:
        return "".join(f"{key} = {_toml(value)}\n" for key, value in one.items())

    tables = [f"[[tasks]]\n{text(task)}" for task in tasks]
    if tuning is not None:
        tables.append(f"[tuning]\n{text(tuning)}")
    return "\n".join([text(table), *tables])


def _toml(value: Any) -> str:
    """JSON, which TOML is too, but for one character that only JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

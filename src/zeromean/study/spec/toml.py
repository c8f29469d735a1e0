"""Study files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.study.spec import presets
from zeromean.study.spec.method import Method
from zeromean.study.spec.optimizer import Optimizer
from zeromean.study.spec.schedule import Schedule
from zeromean.study.spec.study import Study
from zeromean.study.spec.validation import SettingError, Spec, build


def read(path: Path) -> Study:
    """Read the study that a TOML file declares.

    Its keys are the arguments of :class:`zeromean.study.Study`. Each task is a table ``[[tasks]]``
    with the arguments of an image, text, function or program task; ``[[methods]]``,
    ``[[optimizers]]`` and ``[tuning]`` are tables as well. A list of short names is allowed for
    methods and optimizers.

    Raises:
        ZeromeanError: The file cannot be read, is not TOML, or declares no valid study; the message
            names the file and the table.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), "study.toml")
        >>> _ = file.write_text('seeds = 3' + chr(10) + '[[tasks]]' + chr(10) + 'epoch = 9')
        >>> read(file)
        Traceback (most recent call last):
        zeromean.study.spec.validation.SettingError: ...: tasks[0]: 'epoch' is not one of ...
    """
    table = read_table(path)
    try:
        return from_table(table)
    except SettingError as error:
        raise error.within(str(path)) from error


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file as a table.

    Raises:
        ZeromeanError: The file cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        raise ZeromeanError(
            f"{str(path)!r} cannot be read ({error})", "Pass the path of a TOML file"
        ) from error
    try:
        table: dict[str, Any] = tomllib.loads(text)
        return table
    except RecursionError as error:
        raise ZeromeanError(
            f"{path} is nested too deeply for a study file", "Remove the nested tables"
        ) from error
    except ValueError as error:  # also for an integer of thousands of digits
        raise ZeromeanError(f"{path} is not valid TOML ({error})", "Correct that line") from error


def from_table(table: Mapping[str, Any]) -> Study:
    """Return the study of a table, such as one that :func:`to_table` made."""
    return build(Study, table)


def to_table(study: Study) -> dict[str, Any]:
    """Return the study as plain values, as files and databases hold it."""
    table: dict[str, Any] = _values(study)
    for name in ("methods", "optimizers"):
        table[name] = [_values(one, defaults=False) for one in getattr(study, name)]
    table["tasks"] = [_values(one) for one in study.tasks]
    if study.tuning is not None:
        table["tuning"] = _values(study.tuning)
    return table


def _values(spec: Spec, defaults: bool = True) -> dict[str, Any]:
    """Return the fields that are not empty, with or without those that have their defaults."""
    found: dict[str, Any] = {}
    for name in spec.__struct_fields__ if defaults else spec.changed:
        value = getattr(spec, name)
        if isinstance(value, Schedule):
            value = _values(value)
        if value not in (None, (), {}):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def to_toml(study: Study) -> str:
    """Return the text of a file that declares the study."""
    table = to_table(study)
    for name in ("methods", "optimizers"):
        short = [_short(one) for one in getattr(study, name)]
        if all(short):
            table[name] = short
    sections = {name: table.pop(name) for name in [*table] if _is_section(table[name])}
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    for name, section in sections.items():
        for one in section if isinstance(section, list) else [section]:
            header = f"[[{name}]]" if isinstance(section, list) else f"[{name}]"
            lines += ["", header, *(f"{key} = {_toml(value)}" for key, value in one.items())]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(one, dict) for one in value)
    )


def _short(one: Method | Optimizer) -> str | None:
    """Return the short name of a method or an optimizer, or None if it has none."""
    try:
        made = (
            presets.method(one.label) if isinstance(one, Method) else presets.optimizer(one.label)
        )
    except SettingError:
        return None
    return one.label if made == one else None


def _toml(value: Any) -> str:
    """Return the value as TOML, which differs from JSON in tables and in one escaped character."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""Write the samples of a monitor to files and loggers."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from zeromean.errors import ZeromeanError
from zeromean.measurement.sample import QUANTITIES, Sample

Writer: TypeAlias = Callable[[Sample], object]
Destination: TypeAlias = str | os.PathLike[str] | Writer

_CSV_HEADER = ("step", "optimizer", "at", "layer", *QUANTITIES)


def writers_to(to: Any) -> list[Writer]:
    """Return one writer per destination.

    Raises:
        ZeromeanError: A destination is neither a function nor a path that can be written.
    """
    destinations = to if isinstance(to, list | tuple) else [to]
    if not destinations:
        raise ZeromeanError("to=[] holds no destination", 'Pass to="monitor.csv"')
    return [_writer(destination) for destination in destinations]


def _writer(to: Any) -> Writer:
    if isinstance(to, str | os.PathLike):
        return _FileWriter(Path(to))
    if callable(to):
        return to  # type: ignore[no-any-return]
    raise ZeromeanError(
        f"to={to!r} is neither a function of a sample nor a path",
        "Pass a function that logs sample.scalars(), such as"
        " lambda sample: logger.log_metrics(sample.scalars(), step=sample.step)",
    )


class _FileWriter:
    """Appends samples to a file: one row per layer (.csv) or one line of JSON per sample (.jsonl).

    Raises:
        ZeromeanError: The suffix is another one, or the file cannot be written or holds other data.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_csv = path.suffix.lower() == ".csv"
        if not self._is_csv and path.suffix.lower() != ".jsonl":
            raise ZeromeanError(
                f'to="{path}" does not end in .csv or .jsonl', "Rename the file, or pass a function"
            )
        if self._is_csv and self._is_filled():
            with path.open(encoding="utf-8", newline="") as file:
                first = next(csv.reader(file), [])
            if first != list(_CSV_HEADER):
                raise ZeromeanError(
                    f'to="{path}" holds other data: its first line is not that of this monitor',
                    "Pass another path",
                )
        self._append("")  # shows before the training whether the file can be written

    def __call__(self, sample: Sample) -> None:
        if self._is_csv:
            self._append(_csv_rows(sample, with_header=not self._is_filled()))
        else:
            self._append(json.dumps(_without_nan(sample.as_dict()), allow_nan=False) + "\n")

    def _is_filled(self) -> bool:
        return self._path.is_file() and self._path.stat().st_size > 0

    def _append(self, text: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise ZeromeanError(
                f'to="{self._path}" cannot be written ({error})',
                "Pass a path in an existing folder, or free disk space",
            ) from error


def _csv_rows(sample: Sample, with_header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if with_header:
        writer.writerow(_CSV_HEADER)
    for layer in sample.layers:
        numbers = [repr(getattr(layer, quantity)) for quantity in QUANTITIES]
        writer.writerow([sample.step, sample.optimizer, sample.at or "", layer.name, *numbers])
    return text.getvalue()


def _without_nan(value: Any) -> Any:
    """Replace numbers that JSON does not have by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return [_without_nan(entry) for entry in value] if isinstance(value, list | tuple) else value

"""Write the samples of a monitor to files and loggers."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from zeromean.errors import ZeromeanError
from zeromean.measurement.sample import QUANTITIES, Sample

Writer: TypeAlias = Callable[[Sample], object]
Destination: TypeAlias = str | os.PathLike[str] | Writer

_COLUMNS = ("step", "optimizer", "at", "layer", *QUANTITIES)
# The first line of a CSV file of samples, and the start of that of a JSON Lines file.
_CSV_HEADER = ",".join(_COLUMNS).encode()
_JSON_START = b'{"step": '


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
    """Append samples to a file: one row per layer (.csv) or one line of JSON per sample (.jsonl).

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
        with self._open() as file:  # shows before the training whether the file can be written
            file.seek(0)
            line = file.readline()
        is_csv = line.rstrip(b"\r\n") == _CSV_HEADER
        if line and not (is_csv if self._is_csv else line.startswith(_JSON_START)):
            raise ZeromeanError(
                f'to="{path}" holds other data: its first line is not that of this monitor',
                "Pass another path",
            )

    def __call__(self, sample: Sample) -> None:
        with self._open() as file:
            filled = file.tell() > 0
            if filled:  # finish a line that a full disk or a killed process left incomplete
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")
            text = _csv_rows(sample, with_header=not filled) if self._is_csv else _json_line(sample)
            file.write(text.encode())

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """Open the file for reading and appending, at its end."""
        try:
            with self._path.open("a+b") as file:
                yield file
        except OSError as error:
            raise ZeromeanError(
                f'to="{self._path}" cannot be written ({error})',
                "Pass a path in an existing folder, or free disk space",
            ) from error


def _csv_rows(sample: Sample, with_header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if with_header:
        writer.writerow(_COLUMNS)
    for layer in sample.layers:
        numbers = [repr(getattr(layer, quantity)) for quantity in QUANTITIES]
        writer.writerow([sample.step, sample.optimizer, sample.at or "", layer.name, *numbers])
    return text.getvalue()


def _json_line(sample: Sample) -> str:
    # JSON has no nan and no infinity.
    numbers = json.loads(json.dumps(sample.as_dict()), parse_constant=lambda constant: None)
    return json.dumps(numbers) + "\n"

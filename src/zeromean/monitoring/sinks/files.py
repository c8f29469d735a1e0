"""Files: a row a layer (.csv), or a line of JSON a sample (.jsonl)."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.monitoring.sample import QUANTITIES, Sample

HEADER = ("step", "optimizer", "at", "layer", *QUANTITIES)


def accepts(to: Any) -> bool:
    """Whether this is a path."""
    return isinstance(to, str | os.PathLike)


def sink(to: Any) -> Callable[[Sample], None]:
    """What appends samples to the file, in the form that its ending names.

    Raises:
        ZeromeanError: The ending names none, the file cannot be written, or holds something else.
    """
    path = Path(to)
    forms = {".csv": _csv, ".jsonl": _jsonl}
    form = forms.get(path.suffix.lower())
    if form is None:
        raise ZeromeanError(
            f"to={str(path)!r}", "a path that ends in .csv or .jsonl", "rename the file"
        )
    if form is _csv and _is_filled(path):
        with path.open(encoding="utf-8", newline="") as file:
            first = next(csv.reader(file), [])
        if first != list(HEADER):
            raise ZeromeanError(
                f"to={str(path)!r}, whose first line is not a monitor's",
                "a new file, or one that an earlier run of this monitor has begun",
                "pass another path",
            )

    def write(sample: Sample) -> None:
        _append(path, form(sample, not _is_filled(path)))

    _append(path, "")  # what cannot be written shows before the training
    return write


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise ZeromeanError(
            f"to={str(path)!r}, which cannot be written ({error})",
            "a file in a folder that is there and has room",
            "pass another path, or make room",
        ) from error


def _csv(sample: Sample, new: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if new:
        writer.writerow(HEADER)
    for layer in sample.layers:
        numbers = [repr(getattr(layer, quantity)) for quantity in QUANTITIES]
        writer.writerow([sample.step, sample.optimizer, sample.at or "", layer.name, *numbers])
    return text.getvalue()


def _jsonl(sample: Sample, new: bool) -> str:
    return json.dumps(_finite(sample.as_dict()), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value

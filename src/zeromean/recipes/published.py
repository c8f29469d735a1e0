"""What the papers, the published code's README and the tutorial report: numbers and settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

# Name of the file -> short name of the source.
PAPERS = {
    "gradient_centralization": "GC",
    "centered_weight_normalization": "CWN",
    "guides": "Tutorial",
}
# Entries that hold several results, one per key.
GROUPS = ("figures", "figure4", "ablations")
NAMES = {
    "cost": "Cost",
    "overhead": "Cost",
    "reid": "README, Market-1501",
    "horses_or_humans": "Horses or Humans",
    "ablations.z_score": "Section 3.1",
    "ablations.clipping": "Section 4.2",
}


@dataclass(frozen=True)
class Published:
    """A published number.

    Args:
        value: Number in the unit of its table.
        deviation: Deviation over the repeats; None if none was published.
    """

    value: float
    deviation: float | None = None

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.value:.2f}{deviation}"


@cache
def read(paper: str) -> Mapping[str, Any]:
    """Return everything known of a paper (a key of ``PAPERS``), by table or figure."""
    text = (files("zeromean.recipes") / "published" / f"{paper}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def title(paper: str) -> str:
    """Return the citation of a paper."""
    return str(read(paper).get("paper", "The tutorial on gradient-centralization-tf"))


def places(paper: str) -> list[str]:
    """Return the keys of all results, tables first; ``figures.3`` is an entry of a group.

    Example:
        >>> places("centered_weight_normalization")[:5]
        ['table1', 'table2', 'table3', 'table4', 'figure2']
    """
    found = []
    for key, entry in read(paper).items():
        if key in GROUPS:
            found += [f"{key}.{inner}" for inner in entry if inner != "what"]
        elif key != "paper":
            found.append(key)
    return sorted(found, key=_order)


def _order(place: str) -> tuple[int, str]:
    text = name(place)
    return next((n for n, kind in enumerate(("Table", "Fig.")) if text.startswith(kind)), 2), text


def name(place: str) -> str:
    """Return the name of a place as readers know it; a part of a table has the table's name.

    Example:
        >>> name("table2.Xavier"), name("figures.5c"), name("figure4.a")
        ('Table 2', 'Fig. 5c', 'Fig. 4a')
    """
    if place in NAMES:
        return NAMES[place]
    if place.startswith("table"):
        return "Table " + re.sub(r"table(\d+).*", r"\1", place)
    return "Fig. " + re.sub(r"figures?|\.", "", place)


def entry(paper: str, place: str) -> Any:
    """Return the entry of a place, or of a part such as ``table2.Xavier``."""
    found: Any = read(paper)
    for key in place.split("."):
        found = found[key]
    return found


def description(paper: str, place: str) -> str:
    """Return one line on what a place reports."""
    found = entry(paper, place)
    if isinstance(found, str):
        return found
    return str(found.get("what") or f"table of {', '.join(found['table'])}")


def columns(paper: str, place: str) -> list[str]:
    """Return the headings of a table's columns, possibly those of the table it is like."""
    table = read(paper)[place.partition(".")[0]]
    like = re.match(r"as table (\d)", table.get("what", ""))
    if like is not None:
        return columns(paper, f"table{like[1]}")
    # The description of a table without columns names the numbers of its cells.
    found: list[str] = table.get("columns") or re.findall(r"top-\d", table["what"])
    return found


def number(paper: str, place: str, column: str | None, row: str) -> Published:
    """Return a number of a table.

    Args:
        paper: Key of ``PAPERS``.
        place: Key of a table, or of a part of it.
        column: Heading of the column; None for a table with one column.
        row: Key of the row.

    Example:
        >>> number("centered_weight_normalization", "table2.He", "Yale-B", "CWN")
        Published(value=4.21, deviation=None)
        >>> print(number("gradient_centralization", "table1", "V11", "with_gc"))
        71.69 ± 0.37
    """
    found = entry(paper, place)[row]
    if column is not None:
        found = found[columns(paper, place).index(column)]
    return Published(*found) if isinstance(found, list) else Published(found)


def lines(paper: str, place: str) -> Iterator[str]:
    """Yield the published numbers of a place, one line per row; nothing for a picture.

    Example:
        >>> next(lines("centered_weight_normalization", "table3"))
        'plain: CIFAR-10 7.34 ± 0.52, CIFAR-100 29.38 ± 0.14'
    """
    found = entry(paper, place)
    if not isinstance(found, Mapping) or "table" in found:
        return
    headings = columns(paper, place) if place.startswith("table") else []
    for part, rows in found.items():
        # Table 2 has a table per initialization.
        nested = isinstance(rows, Mapping) and "plain" in rows
        for row, values in rows.items() if nested else [(part, rows)]:
            if not row.startswith("recipe") and (text := _text(values, headings)):
                yield f"{part}, {row}: {text}" if nested else f"{row}: {text}"


def _text(values: Any, headings: list[str]) -> str:
    """Format numbers as a line; return an empty text for anything else."""
    if isinstance(values, Mapping):
        return "; ".join(f"{key} {_text(one, [])}" for key, one in values.items())
    if isinstance(values, int | float):
        return str(values)
    if not isinstance(values, list) or any(isinstance(one, str) for one in values):
        return ""
    if len(headings) == len(values):
        cells = [Published(*one) if isinstance(one, list) else Published(one) for one in values]
        return ", ".join(f"{head} {cell}" for head, cell in zip(headings, cells, strict=True))
    return " / ".join(map(str, values))

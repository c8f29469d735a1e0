"""What the papers, the published code's README and the tutorial report: numbers and settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

# Name of the file -> what the source is called in short.
PAPERS = {
    "gradient_centralization": "GC",
    "centered_weight_normalization": "CWN",
    "guides": "Tutorial",
}
# Entries that hold several results, a key each.
GROUPS = ("figures", "figure4", "ablations")
WORDS = {
    "cost": "Cost",
    "overhead": "Cost",
    "reid": "README, Market-1501",
    "horses_or_humans": "Horses or Humans",
    "ablations.z_score": "Section 3.1",
    "ablations.clipping": "Section 4.2",
}


@dataclass(frozen=True)
class Published:
    """A number as it was published.

    Args:
        value: In the unit of its table.
        deviation: Over the repeats; None where none was published.
    """

    value: float
    deviation: float | None = None

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.value:.2f}{deviation}"


@cache
def read(paper: str) -> Mapping[str, Any]:
    """All that is known of a paper, a key a table or figure.

    Args:
        paper: A key of ``PAPERS``.
    """
    text = (files("zeromean.recipes") / "published" / f"{paper}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def title(paper: str) -> str:
    """How the paper is cited."""
    content = read(paper)
    return str(content.get("paper", "The tutorial on gradient-centralization-tf"))


def places(paper: str) -> list[str]:
    """The keys of all its results, tables first, ``figures.3`` for an entry of a group.

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
    """What a reader calls it; of a part of a table the table.

    Example:
        >>> name("table2.Xavier"), name("figures.5c"), name("figure4.a")
        ('Table 2', 'Fig. 5c', 'Fig. 4a')
    """
    if place in WORDS:
        return WORDS[place]
    if place.startswith("table"):
        return "Table " + re.sub(r"table(\d+).*", r"\1", place)
    return "Fig. " + re.sub(r"figures?|\.", "", place)


def entry(paper: str, place: str) -> Any:
    """What is known of a result, or of a part of it such as ``table2.Xavier``."""
    found: Any = read(paper)
    for key in place.split("."):
        found = found[key]
    return found


def what(paper: str, place: str) -> str:
    """One line on what is reported there."""
    found = entry(paper, place)
    if isinstance(found, str):
        return found
    return str(found.get("what") or f"table of {', '.join(found['table'])}")


def columns(paper: str, place: str) -> list[str]:
    """The headings of its columns, which may be those of a table that it says it is like."""
    table = read(paper)[place.partition(".")[0]]
    like = re.match(r"as table (\d)", table.get("what", ""))
    if like is not None:
        return columns(paper, f"table{like[1]}")
    # What is told of a table without columns names the numbers of its cells.
    found: list[str] = table.get("columns") or re.findall(r"top-\d", table["what"])
    return found


def number(paper: str, place: str, column: str | None, row: str) -> Published:
    """A number of a table.

    Args:
        paper: A key of ``PAPERS``.
        place: A table, or a part of it.
        column: Its heading; None for a table of a single column.
        row: The key of the row.

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
    """Every published number of a result, a line a row; nothing where it is a picture.

    Example:
        >>> next(lines("centered_weight_normalization", "table3"))
        'plain: CIFAR-10 7.34 ± 0.52, CIFAR-100 29.38 ± 0.14'
    """
    found = entry(paper, place)
    if not isinstance(found, Mapping) or "table" in found:
        return
    headings = columns(paper, place) if place.startswith("table") else []
    for part, rows in found.items():
        # Table 2 has a table for each initialization.
        inner = isinstance(rows, Mapping) and "plain" in rows
        for row, values in rows.items() if inner else [(part, rows)]:
            if not row.startswith("recipe") and (text := _text(values, headings)):
                yield f"{part}, {row}: {text}" if inner else f"{row}: {text}"


def _text(values: Any, headings: list[str]) -> str:
    """Numbers as a line; nothing of what else is said of a result."""
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

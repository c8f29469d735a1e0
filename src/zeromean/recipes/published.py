"""The numbers and settings that the papers, the published code's README and a tutorial report."""

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
    "guides": "Guide",
}
GUIDES = "Guides: a tutorial on gradient-centralization-tf, and a question of users"
# Entries that hold several results, one per key.
GROUPS = ("figures", "figure4", "ablations")
NAMES = {
    "cost": "Cost",
    "overhead": "Cost",
    "reid": "README, Market-1501",
    "horses_or_humans": "Horses or Humans",
    "policy_gradient": "Policy gradient",
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
    """Return the numbers and settings of a paper (a key of ``PAPERS``), by table or figure."""
    text = (files("zeromean.recipes") / "published" / f"{paper}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def title(paper: str) -> str:
    """Return the citation of a paper."""
    return str(read(paper).get("paper", GUIDES))


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
    """Return the name of a place for readers; a part of a table has the table's name.

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
    """Return the headings of a table's columns, or of the table whose columns it shares."""
    table = _table(paper, place)
    like = re.match(r"as table (\d)", table.get("what", ""))
    if like is not None:
        return columns(paper, f"table{like[1]}")
    return list(table["columns"])


def _table(paper: str, place: str) -> Mapping[str, Any]:
    table: Mapping[str, Any] = read(paper)[place.partition(".")[0]]
    return table


def number(
    paper: str, place: str, column: str | None, row: str, metric: str | None = None
) -> Published | None:
    """Return a number of a table; None if the table has another metric.

    Args:
        paper: Key of ``PAPERS``.
        place: Key of a table, or of a part of it.
        column: Heading of the column; None for a table with one column.
        row: Key of the row.
        metric: Key of a metric, for tables with several; None for the first one.

    Example:
        >>> number("centered_weight_normalization", "table2.He", "Yale-B", "CWN")
        Published(value=4.21, deviation=None)
        >>> print(number("gradient_centralization", "table1", "V11", "with_gc"))
        71.69 ± 0.37
        >>> number("gradient_centralization", "table5", "R50", "with_gc", "AP75").value
        40.2
    """
    found = entry(paper, place)[row]
    if isinstance(found, Mapping):
        found = found[column]
    elif column is not None:
        found = found[columns(paper, place).index(column)]
    several = _table(paper, place).get("metrics")
    if several:
        metric = metric or several[0]
        return Published(found[several.index(metric)]) if metric in several else None
    if metric is not None:
        return None
    return Published(*found) if isinstance(found, list) else Published(found)


def lines(paper: str, place: str) -> Iterator[str]:
    """Yield the published numbers of a place without a table, one per line.

    Example:
        >>> list(lines("centered_weight_normalization", "cost"))
        ['plain: 17.3', 'cwn: 18.1']
    """
    found = entry(paper, place)
    if isinstance(found, Mapping):
        yield from (f"{key}: {value}" for key, value in found.items() if key != "what")

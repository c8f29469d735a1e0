"""Tables of text, rendered as plain text, Markdown or HTML, and counted nouns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar, overload

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Table:
    """A table whose cells are text; printing it aligns the columns.

    Args:
        header: Name of each column.
        rows: Cells of each row, as many as the header has.
        left: Number of leading columns that are aligned left; the others hold numbers and are
            aligned right (default 1).

    Example:
        >>> from zeromean.tables import Table
        >>> table = Table(("layer", "norm"), [("conv.weight", "0.5"), ("head.weight", "12")])
        >>> print(table)
        layer        norm
        conv.weight   0.5
        head.weight    12
        >>> print(table.markdown())
        | layer | norm |
        |---|---:|
        | conv.weight | 0.5 |
        | head.weight | 12 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column < self.left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown, without a final newline."""
        marks = ["---" if column < self.left else "---:" for column in range(len(self.header))]
        lines = [_markdown_line(self.header), f"|{'|'.join(marks)}|"]
        return "\n".join([*lines, *map(_markdown_line, self.rows)])

    def html(self) -> str:
        """Return the table as an HTML ``table`` element with escaped cells."""
        header = self._html_line("th", self.header)
        body = "\n".join(self._html_line("td", row) for row in self.rows)
        return f"<table>\n<thead>\n{header}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    _repr_html_ = html

    def _html_line(self, tag: str, cells: Iterable[str]) -> str:
        line = "".join(
            f'<{tag} style="text-align: {"left" if column < self.left else "right"}">'
            f"{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{line}</tr>"


class Tabular(ABC):
    """A result that prints as a table with conclusions below it."""

    @abstractmethod
    def table(self) -> Table:
        """Return the printed table."""

    @abstractmethod
    def _conclusions(self) -> Sequence[str]:
        """Return the lines below the table; the first one is also the ``repr``."""

    def __str__(self) -> str:
        return "\n".join([str(self.table()), *self._conclusions()])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._conclusions()[0]})"

    def _repr_html_(self) -> str:
        return self.table().html() + "".join(f"<p>{escape(x)}</p>" for x in self._conclusions())


class TabularSequence(Tabular, Sequence[Entry]):
    """A sequence of entries that prints as a table with one row per entry."""

    @property
    @abstractmethod
    def _entries(self) -> tuple[Entry, ...]: ...

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)


def amount(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s in the plural.

    Example:
        >>> from zeromean.tables import amount
        >>> amount(1, "run"), amount(1200, "run")
        ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

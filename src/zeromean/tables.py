"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest cell.

    Args:
        table: Rows of cells, the header among them.
        left: How many columns are set to the left; the others hold numbers.
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )

"""``zeromean tables``: every result of the papers, and what it takes to repeat it."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated

import typer

from zeromean.errors import ZeromeanError

# Lines longer than these are hard to read.
WIDEST = 100


def tables(
    words: Annotated[
        str, typer.Argument(help="Tell only of results that say this, such as cwn-table3 or SVHN.")
    ] = "",
) -> None:
    """List every table and figure of results: data, cost, published numbers, and what came out.

    Of both papers, the published code's README and the tutorial; zeromean reproduce runs one.
    """
    from zeromean.recipes import catalog, listing, published

    told: dict[str, list[list[listing.Line]]] = {}
    for result in catalog.results():
        lines = list(listing.lines(result))
        if words.lower() in "\n".join(text for _, text in lines).lower():
            told.setdefault(result.paper, []).append(lines)
    if not told:
        raise ZeromeanError(
            f"words {words!r}, which no result has",
            "a part of what is told of one",
            "zeromean tables tells of all",
        )
    width = min(WIDEST, shutil.get_terminal_size().columns)
    for paper, results in told.items():
        print(f"{published.title(paper)}\n")
        for lines in results:
            for level, text in lines:
                print(
                    textwrap.fill(
                        text,
                        width,
                        initial_indent="  " * level,
                        subsequent_indent="  " * (level + 2),
                        break_on_hyphens=False,
                    )
                )
            print()

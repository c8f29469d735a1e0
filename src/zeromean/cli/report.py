"""``zeromean report``: the pages of a finished study, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import Gain
from zeromean.cli.run_study import show


def report(
    out: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    csv: Annotated[bool, typer.Option("--csv", help="Write runs.csv and epochs.csv too.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write report.md too: the words and tables.")
    ] = False,
    gain: Gain = None,
) -> None:
    """Rebuild OUT/report.html and its pictures from OUT/study.sqlite, and print the tables."""
    show(out, gain)
    from zeromean.study.engine import results
    from zeromean.study.report import export, write_markdown

    if csv:
        for path in export.write_csv(results.read(out)):
            print(path)
    if markdown:
        print(write_markdown(results.read(out), gain))

"""``zeromean report``: write the report of a finished study again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import MinEffect
from zeromean.cli.output import echo
from zeromean.cli.run_study import show


def report(
    out: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    csv: Annotated[bool, typer.Option("--csv", help="Also write runs.csv and epochs.csv.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Also write report.md with conclusions and tables.")
    ] = False,
    min_effect: MinEffect = None,
) -> None:
    """Write OUT/report.html again from OUT/study.sqlite, and print the tables."""
    from zeromean.study.report import write_csv, write_markdown

    results = show(out, min_effect)
    if csv:
        for path in write_csv(results):
            echo(str(path))
    if markdown:
        echo(str(write_markdown(results, min_effect)))

"""``zeromean report``: the pages of a finished study, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.run_study import show


def report(
    out: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    csv: Annotated[bool, typer.Option("--csv", help="Write runs.csv and epochs.csv too.")] = False,
    gain: Annotated[
        float | None, typer.Option(help="Tell how many seeds it takes to see this difference.")
    ] = None,
) -> None:
    """Rebuild OUT/report.html and its pictures from OUT/study.sqlite, and print the tables."""
    show(out, gain)
    if csv:
        from zeromean.study import export, results

        for path in export.write_csv(results.read(out)):
            print(path)

"""``zeromean reproduce``: a table of the papers, trained here, beside what was published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zeromean.cli.options import Device, Jobs, Precision, Threads
from zeromean.cli.run_study import train_study
from zeromean.errors import ZeromeanError
from zeromean.study.study import Study

if TYPE_CHECKING:
    from zeromean.recipes.conditions import Conditions
    from zeromean.recipes.cost import Cost

# Above this it asks first.
LONG_SECONDS = 600.0


def reproduce(
    name: Annotated[str, typer.Argument(help="As zeromean tables lists it.")],
    data: Annotated[
        str, typer.Option(help="As zeromean compare takes it, such as cifar:DIR or npz:FILE.")
    ],
    scale: Annotated[
        float, typer.Option(help="The share of the training: 0.1 is a tenth of all epochs.")
    ] = 1.0,
    seeds: Annotated[
        int | None, typer.Option(help="How many. [default: as the recipe says]")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask, however long it will take.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results. [default: NAME, with the scale]")
    ] = None,
    precision: Precision = Study.precision,
    device: Device = Study.device,
    threads: Threads = Study.threads,
    jobs: Jobs = 1,
) -> None:
    """Run a recipe, and print published and measured numbers side by side.

    The cost is told first. The same command goes on where it was interrupted. The results are
    OUT/published.md, OUT/report.html with the curves, OUT/outcome.json and OUT/study.sqlite.
    """
    from dataclasses import replace

    from zeromean.recipes.catalogue import find
    from zeromean.recipes.conditions import Conditions
    from zeromean.recipes.cost import cost
    from zeromean.recipes.shorten import shortened
    from zeromean.study.tasks.load import check_device, load, rehearse

    recipe = find(name)
    here = replace(recipe.on(data, seeds), precision=precision, device=device, threads=threads)
    study = shortened(here, scale)
    if jobs < 1:
        raise ZeromeanError(f"jobs = {jobs}", "1 or more", "raise it")
    out = out or Path(name if scale == 1 else f"{name}-scale-{scale:g}")
    check_device(device)
    (task,) = study.tasks
    problem = load(study, task)
    rehearse(study, task, problem)
    conditions = Conditions.of(recipe, study, problem, scale)
    print(conditions.introduction(), flush=True)
    found = cost(study, problem, out, jobs)
    print(f"{found.text(jobs)}{conditions.mark}\n", flush=True)
    del problem
    if found.seconds > LONG_SECONDS and not yes:
        _ask(name, found)
    train_study(conditions.noted(), out, jobs)
    show(conditions, out)


def can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty()


def _ask(name: str, cost: Cost) -> None:
    if not can_ask():
        raise ZeromeanError(
            f"{name}, which takes {cost.duration}, where nobody can be asked",
            "a yes",
            "add --yes, or shorten it by --scale or --seeds",
        )
    if not typer.confirm("Go on?"):
        raise typer.Exit(1)


def show(conditions: Conditions, out: Path) -> None:
    """Prints the tables and writes the files."""
    from rich.console import Console
    from rich.table import Table

    from zeromean.recipes import outcome, side_by_side
    from zeromean.recipes.page import page
    from zeromean.study import report, results

    found = results.read(out)
    tables = side_by_side.tables(conditions.recipe, found, conditions.comparable, conditions.mark)
    print(f"{conditions.note}\n")
    for table in tables:
        print(f"{table.title}\n")
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for number, text in enumerate(table.header()):
            # Numbers go on in a second line where there is no room; a name would lose its end.
            shown.add_column(text, justify="right" if number else "left", no_wrap=not number)
        for row in table.rows():
            shown.add_row(*row)
        Console().print(shown)
        print()
    print(f"{side_by_side.explanation(tables)}\n")
    for section in report.sections(found):
        print("\n".join(section.conclusions), end="\n\n")
    paths = report.write(found)
    try:
        written = out / "published.md"
        written.write_text(page(conditions, found, tables), encoding="utf-8")
        told = outcome.write(outcome.Outcome.of(conditions, found, tables), out)
    except OSError as error:
        raise ZeromeanError(
            f"{out}, which cannot be written any more ({error})",
            "room for published.md and outcome.json",
            "make room and give the same command again",
        ) from error
    print("\n".join(map(str, (written, *paths, told, out / "study.sqlite"))))

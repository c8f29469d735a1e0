"""``zeromean reproduce``: train a published table here and compare the numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zeromean.cli.main import typed_command, typed_options
from zeromean.cli.options import Device, Jobs, Precision, Ray, TensorBoard, Threads
from zeromean.cli.output import echo
from zeromean.cli.run_study import train_study
from zeromean.errors import ZeromeanError
from zeromean.study.spec.study import Study
from zeromean.study.spec.validation import SettingError

if TYPE_CHECKING:
    from zeromean.recipes.cost import Cost
    from zeromean.recipes.recipe import Recipe
    from zeromean.recipes.run_conditions import RunConditions
    from zeromean.tables import Table

DEFAULTS = Study()
# A longer run needs a confirmation.
LONG_SECONDS = 600.0
# Options that a study file does not contain.
RUN_OPTIONS = ("yes", "out", "jobs", "ray", "tensorboard")


def reproduce(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A recipe that zeromean tables lists.")],
    data: Annotated[
        str, typer.Option(help="As for zeromean compare, such as cifar:DIR or npz:FILE.")
    ],
    scale: Annotated[
        float, typer.Option(help="Share of the training; 0.1 is a tenth of all epochs.")
    ] = 1.0,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds.", show_default="the recipe's")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a long run.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results.", show_default="NAME, with the scale"),
    ] = None,
    precision: Precision = DEFAULTS.precision,
    device: Device = DEFAULTS.device,
    threads: Threads = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    tensorboard: TensorBoard = False,
    study_file: Annotated[
        Path | None,
        typer.Option(help="Train nothing; write a file for zeromean study, to edit and run."),
    ] = None,
) -> None:
    """Run a recipe, and print published and measured numbers.

    The expected cost comes first. The same command continues an interrupted run. The results are
    OUT/published.md, OUT/report.html with the curves, OUT/outcome.json and OUT/study.sqlite.
    """
    import msgspec

    from zeromean.recipes.registry import find
    from zeromean.recipes.scale import scaled

    recipe = find(name)
    with _settings_of_recipe(context):
        asked = msgspec.structs.replace(
            recipe.on(data, seeds), precision=precision, device=device, threads=threads
        )
        study = scaled(asked, scale)
        if study_file is not None:
            for option in typed_options(context, RUN_OPTIONS):
                raise ZeromeanError(
                    f"{option} has no effect with --study-file, which trains nothing",
                    f"Leave {option} out here, and pass it to zeromean study",
                )
            _write_study(study, study_file)
            return
        out = out or Path(name if scale == 1 else f"{name}-scale-{scale:g}")
        conditions = _prepare(recipe, study, scale, out, jobs, ray, yes)
        train_study(conditions.noted(), out, jobs, ray, tensorboard, typed_command(context))
    show(conditions, out)


@contextmanager
def _settings_of_recipe(context: typer.Context) -> Iterator[None]:
    """Say for settings without an option here that they can be changed in a study file."""
    try:
        yield
    except SettingError as error:
        if error.setting in (parameter.name for parameter in context.command.params):
            raise
        raise error.settled("in the file that --study-file FILE writes") from error


def _write_study(study: Study, file: Path) -> None:
    from zeromean.study.spec.toml import to_toml

    try:
        stream = file.open("x", encoding="utf-8")
        try:
            with stream:
                stream.write(to_toml(study))
        except OSError:
            file.unlink()  # a partial file would block the next attempt
            raise
    except (OSError, ValueError) as error:
        raise ZeromeanError(
            f"--study-file {file} cannot be written ({error})", "Name a new file"
        ) from error
    echo(str(file))


def _prepare(
    recipe: Recipe, study: Study, scale: float, out: Path, jobs: int, ray: str | None, yes: bool
) -> RunConditions:
    """Check everything, print conditions and cost, and ask before a long run."""
    import msgspec

    from zeromean.recipes.cost import estimate
    from zeromean.recipes.run_conditions import RunConditions
    from zeromean.study.engine.results import check_same_data, holds_study, open_store
    from zeromean.study.engine.resume import check_folder
    from zeromean.study.engine.run import check_jobs
    from zeromean.study.tasks.load import check_device, load_problem
    from zeromean.study.tasks.training import TrainingTask

    check_jobs(jobs, ray)
    # The final note depends on the data, which is not read yet.
    check_folder(msgspec.structs.replace(study, note=recipe.name), out)
    check_device(study.device)
    (spec,) = study.trained_tasks
    problem = load_problem(study, spec)
    task = TrainingTask(study, spec, problem)
    if holds_study(out):
        with open_store(out) as (_, _, known):
            check_same_data({spec.label: task.info}, known)
    task.check(study.methods, study.optimizers)
    conditions = RunConditions.of(recipe, study, problem, scale)
    echo(conditions.introduction())
    found = estimate(study, problem, out, jobs)
    alone = ", by this process alone" if ray is not None else ""
    echo(f"{found.text(jobs)}{alone}{conditions.mark}\n")
    if found.seconds > LONG_SECONDS and not yes:
        _confirm(recipe.name, found)
    return conditions


def can_ask() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin.isatty()


def _confirm(name: str, cost: Cost) -> None:
    if not can_ask():
        raise ZeromeanError(
            f"{name} takes {cost.duration}, which needs a confirmation, and there is no terminal",
            "Add --yes, or shorten it with --scale or --seeds",
        )
    if not typer.confirm("Continue?"):
        raise typer.Exit(1)


def show(conditions: RunConditions, out: Path) -> None:
    """Print the tables and write the files."""
    from zeromean.recipes import outcome
    from zeromean.recipes.comparison import explanation, page, tables
    from zeromean.study import report
    from zeromean.study.engine import results

    found = results.read(out)
    compared = tables(conditions, found)
    echo(f"{conditions.note}\n")
    for title, table in compared:
        echo(f"{title}\n")
        _print_wrapped(table)
    echo(f"{explanation(conditions.comparable)}\n")
    for section in report.sections(found):
        echo("\n".join(map(str, section.conclusions)) + "\n")
    try:
        written = out / "published.md"
        written.write_text(page(conditions, found, compared), encoding="utf-8")
        kept = outcome.write(outcome.Outcome.of(conditions, found), out)
    except OSError as error:
        raise ZeromeanError(
            f"published.md and outcome.json cannot be written to {out} ({error})",
            "Make room, then run the same command again",
        ) from error
    echo("\n".join(map(str, (written, report.write(found), kept, out / "study.sqlite"))))


def _print_wrapped(table: Table) -> None:
    """Print a table with long cells, which continue in a second line if there is no room."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for number, text in enumerate(table.header):
        # A name would lose its end.
        shown.add_column(text, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        shown.add_row(*row)
    Console().print(shown)
    echo()

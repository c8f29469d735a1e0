"""``zeromean reproduce``: train a published table here and compare the numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zeromean.cli.options import Device, Jobs, Precision, Ray, TensorBoard, Threads
from zeromean.cli.output import echo
from zeromean.cli.run_study import train_study
from zeromean.cli.typed import typed_command, typed_options
from zeromean.errors import ZeromeanError
from zeromean.study.spec.study import Study
from zeromean.study.spec.validation import SettingError, check_range
from zeromean.tables import amount

if TYPE_CHECKING:
    from zeromean.recipes.recipe import Recipe
    from zeromean.recipes.run_conditions import RunConditions
    from zeromean.tables import Table

DEFAULTS = Study()
# A longer run needs a confirmation.
LONG_SECONDS = 600.0
MAX_PROCESSES = 1024
# Options that a study file does not contain.
RUN_OPTIONS = ("yes", "out", "jobs", "ray", "tensorboard")


def reproduce(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A recipe that zeromean tables lists.")],
    data: Annotated[
        str | None,
        typer.Option(help="Data in the form that zeromean tables shows, such as cifar:DIR."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Pretrained weights, for recipes that start from some.")
    ] = None,
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
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes per run, one per device, of a recipe of a training program.",
            show_default="as published",
        ),
    ] = None,
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
    from zeromean.recipes.program_data import check_weights, path_of
    from zeromean.recipes.registry import find
    from zeromean.recipes.scale import scaled

    recipe = find(name)
    program = recipe.program
    if program is None and processes is not None:
        raise ZeromeanError(f"{name} runs in this process", "Use --jobs, or remove --processes")
    if processes is not None:
        check_range("processes", processes, 1, MAX_PROCESSES)
    if device != DEFAULTS.device and not recipe.has_device:
        raise ZeromeanError(f"{name} runs on the CPU alone", "Remove --device")
    weights_file = check_weights(recipe, weights)
    place = path_of(recipe, data)
    with _settings_of_recipe(context):
        study = scaled(
            recipe.on(
                place,
                seeds,
                weights=weights_file,
                processes=processes,
                precision=precision,
                device=device,
                threads=threads,
            ),
            scale,
            program.lengths if program is not None else (),
        )
        if study_file is not None:
            for option in typed_options(context, RUN_OPTIONS):
                raise ZeromeanError(
                    f"{option} has no effect with --study-file, which trains nothing",
                    f"Leave {option} out",
                )
            _write_study(study, study_file)
            return
        out = out or Path(name if scale == 1 else f"{name}-scale-{scale:g}")
        if program is None:
            conditions = _prepare(recipe, study, scale, out, jobs, ray, yes)
        else:
            count = processes or program.processes
            conditions = _prepare_program(recipe, study, scale, out, jobs, ray, yes, place, count)
        train_study(conditions.noted(), out, jobs, ray, tensorboard, typed_command(context))
    show(conditions, out)


@contextmanager
def _settings_of_recipe(context: typer.Context) -> Iterator[None]:
    """Point errors of settings that have no option here to the study file."""
    try:
        yield
    except SettingError as error:
        if error.setting in (parameter.name for parameter in context.command.params):
            raise
        raise error.settled("in the file that --study-file FILE writes") from error


def _write_study(study: Study, file: Path) -> None:
    from zeromean.study.spec.toml import to_toml

    try:
        text = to_toml(study)
        stream = file.open("x", encoding="utf-8")
        try:
            with stream:
                stream.write(text)
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
    """Check the settings, print the conditions and the cost, and ask before a long run."""
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
        _confirm(recipe.name, found.duration)
    return conditions


def _prepare_program(
    recipe: Recipe,
    study: Study,
    scale: float,
    out: Path,
    jobs: int,
    ray: str | None,
    yes: bool,
    place: str,
    processes: int,
) -> RunConditions:
    """Check the settings, print the conditions, and ask before any run."""
    import msgspec

    from zeromean.recipes.program_data import find
    from zeromean.recipes.run_conditions import RunConditions
    from zeromean.study.engine.results import missing_runs
    from zeromean.study.engine.resume import check_folder
    from zeromean.study.engine.run import check_jobs, check_programs
    from zeromean.study.tasks.load import check_device

    assert recipe.program is not None
    check_programs(study, jobs, ray)
    check_jobs(jobs, ray)
    check_folder(msgspec.structs.replace(study, note=recipe.name), out)
    check_device(study.device)
    recipe.program.check_installed(recipe.name)
    conditions = RunConditions.of_program(recipe, study, find(recipe, place), scale, processes)
    echo(conditions.introduction())
    left = len(missing_runs(study, out))
    if not left:
        echo("Nothing is left to train.\n")
        return conditions
    length, unit = recipe.length_of(study)
    echo(f"{amount(left, 'run')} of {amount(length, unit)}{conditions.mark}\n")
    if not yes:
        _confirm(recipe.name, "a time that is known after the first run")
    return conditions


def can_ask() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()  # None if the caller closed it


def _confirm(name: str, duration: str) -> None:
    if not can_ask():
        raise ZeromeanError(
            f"{name} takes {duration}, which needs a confirmation, and there is no terminal",
            "Add --yes, or shorten it with --scale or --seeds",
        )
    if not typer.confirm("Continue?"):
        raise typer.Exit(1)


def show(conditions: RunConditions, out: Path) -> None:
    """Print the tables of a finished recipe, and write its files."""
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
    """Print a table whose long cells continue on the next line if there is no room."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for number, text in enumerate(table.header):
        # A name would lose its end.
        shown.add_column(text, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        shown.add_row(*row)
    # A label may contain brackets or colons, which are no markup.
    Console(markup=False, emoji=False).print(shown)
    echo()

"""``zeromean reproduce``: a table of the papers, trained here, beside what was published."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zeromean.cli.app import typed
from zeromean.cli.options import Device, Jobs, Precision, Ray, TensorBoard, Threads
from zeromean.cli.run_study import Ways, train_study
from zeromean.errors import ZeromeanError
from zeromean.study.spec.study import Study
from zeromean.study.spec.validation import SettingError

if TYPE_CHECKING:
    from zeromean.recipes.conditions import Conditions
    from zeromean.recipes.cost import Cost
    from zeromean.recipes.recipe import Recipe

# Above this it asks first.
LONG_SECONDS = 600.0
# Options without a place in a study's file.
OF_TRAINING = ("yes", "out", "jobs", "ray", "tensorboard")


def reproduce(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As zeromean tables lists it.")],
    data: Annotated[
        str, typer.Option(help="As zeromean compare takes it, such as cifar:DIR or npz:FILE.")
    ],
    scale: Annotated[
        float, typer.Option(help="The share of the training: 0.1 is a tenth of all epochs.")
    ] = 1.0,
    seeds: Annotated[
        int | None, typer.Option(help="How many.", show_default="as the recipe says")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask, however long it will take.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results.", show_default="NAME, with the scale"),
    ] = None,
    precision: Precision = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    tensorboard: TensorBoard = False,
    study_file: Annotated[
        Path | None,
        typer.Option(help="Train nothing: write a file for zeromean study, to be changed there."),
    ] = None,
) -> None:
    """Run a recipe, and print published and measured numbers side by side.

    The cost is told first. The same command goes on where it was interrupted. The results are
    OUT/published.md, OUT/report.html with the curves, OUT/outcome.json and OUT/study.sqlite.
    """
    from msgspec.structs import replace

    from zeromean.recipes.catalog import find
    from zeromean.recipes.shorten import shortened

    recipe = find(name)
    with _of_the_recipe(context):
        asked = replace(recipe.on(data, seeds), precision=precision, device=device, threads=threads)
        study = shortened(asked, scale)
        if study_file is not None:
            _refuse_options_of_training(context)
            _write_study(study, study_file)
            return
        out = out or Path(name if scale == 1 else f"{name}-scale-{scale:g}")
        ways = Ways(jobs, ray, tensorboard)
        conditions = _prepare(recipe, study, scale, out, ways, yes)
        train_study(conditions.noted(), out, ways, typed(context))
    show(conditions, out)


@contextmanager
def _of_the_recipe(context: typer.Context) -> Iterator[None]:
    """No fix speaks of changing what the recipe sets, and this command has no option for."""
    try:
        yield
    except SettingError as error:
        if error.setting in (parameter.name for parameter in context.command.params):
            raise
        raise error.settled("in the file that --study-file FILE writes") from error


def _refuse_options_of_training(context: typer.Context) -> None:
    """Those that say how it is trained and kept, which no study's file tells."""
    for name in OF_TRAINING:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ZeromeanError(
                f"--study-file with --{name}",
                "one of them: nothing is trained",
                f"leave --{name} out; how it is trained is for zeromean study FILE",
            )


def _write_study(study: Study, file: Path) -> None:
    from zeromean.study.spec.toml import to_toml

    try:
        stream = file.open("x", encoding="utf-8")
        try:
            with stream:
                stream.write(to_toml(study))
        except OSError:
            file.unlink()  # a part of it would be in the way of the next try
            raise
    except OSError as error:
        raise ZeromeanError(
            f"--study-file {file}, which cannot be written ({error})",
            "a new file",
            "name another one",
        ) from error
    print(file)


def _prepare(
    recipe: Recipe, study: Study, scale: float, out: Path, ways: Ways, yes: bool
) -> Conditions:
    """Refuses what cannot be, tells under what conditions it will be done, what it costs, and asks."""
    from msgspec.structs import replace

    from zeromean.recipes.conditions import Conditions
    from zeromean.recipes.cost import cost
    from zeromean.study.engine.results import check_data
    from zeromean.study.engine.resume import check_folder
    from zeromean.study.engine.run import check_jobs
    from zeromean.study.tasks.load import check_device, load

    check_jobs(ways.jobs, ways.ray)
    check_folder(replace(study, note=recipe.name), out)  # the whole note takes the data
    check_device(study.device)
    (task,) = study.tasks
    loaded = load(study, task)
    check_data({task.label: loaded.info}, out)
    loaded.check(study.methods, study.optimizers)
    problem = loaded.problem
    conditions = Conditions.of(recipe, study, problem, scale)
    print(conditions.introduction(), flush=True)
    found = cost(study, problem, out, ways.jobs)
    alone = ", by this process alone" if ways.ray is not None else ""
    print(f"{found.text(ways.jobs)}{alone}{conditions.mark}\n", flush=True)
    if found.seconds > LONG_SECONDS and not yes:
        _ask(recipe.name, found)
    return conditions


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
    from zeromean.study import report
    from zeromean.study.engine import results

    found = results.read(out)
    tables = side_by_side.tables(conditions.recipe, found, conditions.comparable, conditions.mark)
    print(f"{conditions.note}\n")
    for table in itertools.chain.from_iterable(one.by_measure() for one in tables):
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
    paths = report.write(found)
    print("\n".join(map(str, (written, *paths, told, out / "study.sqlite"))))

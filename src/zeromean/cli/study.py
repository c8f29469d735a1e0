"""``zeromean study``: run the study that a file declares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import Jobs, MinEffect, Ray, TensorBoard
from zeromean.cli.run_study import run_study


def study(
    file: Annotated[Path, typer.Argument(help="A TOML file.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results.", show_default="FILE without its suffix"),
    ] = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    tensorboard: TensorBoard = False,
    min_effect: MinEffect = None,
) -> None:
    """Run the study that FILE declares: tasks x methods x optimizers x seeds.

    The keys are the arguments of zeromean.study.Study; each table [[tasks]] holds the arguments of
    a task, [[methods]] those of a method, [[optimizers]] those of an optimizer. The same command
    continues an interrupted study.
    """
    from zeromean.study.spec import toml

    declared = toml.read(file)
    run_study(declared, out or file.with_suffix(""), jobs, ray, tensorboard, min_effect)

"""``zeromean study``: what a file declares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import Gain, Jobs, Ray, TensorBoard
from zeromean.cli.run_study import Ways, run_study


def study(
    file: Annotated[Path, typer.Argument(help="A TOML file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results.", show_default="the file's name without its ending"
        ),
    ] = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    tensorboard: TensorBoard = False,
    gain: Gain = None,
) -> None:
    """Run the study that FILE declares: tasks x methods x optimizers x seeds.

    Its keys are those of zeromean.study.Study, and each table of its array "tasks" has those of
    zeromean.study.Task. The same command goes on where it was interrupted.
    """
    from zeromean.study.spec.toml import read

    ways = Ways(jobs, ray, tensorboard)
    run_study(read(file), out or file.with_suffix(""), ways, gain)

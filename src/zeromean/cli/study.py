"""``zeromean study``: what a file declares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.run_study import run_study


def study(
    file: Annotated[Path, typer.Argument(help="A TOML file.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results. [default: the file's name without its ending]"),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster that trains the runs instead.")
    ] = None,
    shard: Annotated[
        bool,
        typer.Option("--shard", help="Under torchrun: shards of a run's weights, not copies."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write OUT/tensorboard as it goes.")
    ] = False,
    gain: Annotated[
        float | None, typer.Option(help="Tell how many seeds it takes to see this difference.")
    ] = None,
) -> None:
    """Run the study that FILE declares: tasks x methods x optimizers x seeds.

    Its keys are those of zeromean.study.Study, and each [[tasks]] has those of
    zeromean.study.Task. The same command goes on where it was interrupted.
    """
    from zeromean.study import declare

    run_study(declare.read(file), out or file.with_suffix(""), jobs, gain, tensorboard, ray, shard)

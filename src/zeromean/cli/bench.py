"""``zeromean bench``: time optimizer steps with and without centering on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import Device, split_names
from zeromean.errors import ZeromeanError


def bench(
    tensors: Annotated[
        str, typer.Option(help="Any of resnet50, gpt2 (needs 6 GB), tiny; separated by commas.")
    ] = "resnet50,tiny",
    optimizer: Annotated[
        str, typer.Option(help="Any of sgd, adamw; separated by commas.")
    ] = "sgd,adamw",
    repeats: Annotated[int, typer.Option(help="Number of times that each step is timed.")] = 25,
    threads: Annotated[
        int | None, typer.Option(help="Number of CPU threads.", show_default="torch's default")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("zeromean-bench"),
    device: Device = "cpu",
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: processor time, for a machine with other work.")
    ] = "wall",
    training: Annotated[
        bool, typer.Option("--training", help="Time whole training steps of ResNet-18 too.")
    ] = False,
) -> None:
    """Time optimizer steps with and without GC on this machine.

    Compares zeromean's optimizers and hooks, the published loop, pytorch_optimizer and jitted optax
    with torch's fused step. Prints the tables and writes OUT/bench.md and OUT/bench.png.
    """
    import torch
    from rich.console import Console

    from zeromean.bench import report
    from zeromean.bench.run import Settings, run

    settings = Settings(
        tensors=split_names(tensors),
        optimizers=split_names(optimizer),
        repeats=repeats,
        threads=torch.get_num_threads() if threads is None else threads,
        out=out,
        device=device,
        clock=clock,
        training=training,
    )
    with Console(stderr=True).status("starting") as status:  # visible on a terminal only
        results = run(settings, status.update)
    page = report.markdown(results)
    print(page)
    try:
        out.mkdir(parents=True, exist_ok=True)
        settings.table.write_text(page, encoding="utf-8")
        report.save_figure(results, settings.figure)
    except OSError as error:
        raise ZeromeanError(
            f"--out {out} cannot be written: {error}; the table is printed above",
            "Pass another folder",
        ) from error
    print(f"{settings.table}\n{settings.figure}")

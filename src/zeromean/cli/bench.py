"""``zeromean bench``: what an optimizer step costs with centering, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.errors import ZeromeanError


def bench(
    tensors: Annotated[
        str, typer.Option(help="Any of resnet50, gpt2 (takes 5 GB), tiny; with commas")
    ] = "resnet50,tiny",
    optimizer: Annotated[str, typer.Option(help="Any of sgd, adamw; with commas")] = "sgd,adamw",
    repeats: Annotated[int, typer.Option(help="Rounds in which each step is timed.")] = 25,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads.", show_default="as many as torch takes")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("zeromean-bench"),
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, ...")] = "cpu",
    training: Annotated[
        bool, typer.Option("--training", help="Also whole training steps of ResNet-18 (minutes).")
    ] = False,
) -> None:
    """Measure what an optimizer step costs with GC and without, on this machine.

    zeromean's optimizers and hooks, the published loop, pytorch_optimizer and jitted optax take
    turns with torch's fused step. The results are OUT/bench.md, printed too, and OUT/bench.png.
    """
    import torch
    from rich.console import Console

    from zeromean.bench import plot, table
    from zeromean.bench.run import run
    from zeromean.bench.settings import Settings

    settings = Settings(
        tensors=tuple(name.strip() for name in tensors.split(",")),
        optimizers=tuple(name.strip() for name in optimizer.split(",")),
        repeats=repeats,
        threads=torch.get_num_threads() if threads is None else threads,
        out=out,
        device=device,
        training=training,
    )
    console = Console(stderr=True)
    with console.status("starting") as status:  # shown on terminals alone
        results = run(settings, status.update)
    page = table.markdown(results)
    print(page)
    try:
        out.mkdir(parents=True, exist_ok=True)
        settings.table.write_text(page, encoding="utf-8")
        plot.draw(results, settings.picture)
    except OSError as error:
        raise ZeromeanError(
            f"--out {out}, which cannot be written ({error})",
            "a folder with room for bench.md and bench.png",
            "pass another --out; the table is printed above",
        ) from error
    print(f"{settings.table}\n{settings.picture}")

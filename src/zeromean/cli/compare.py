"""``zeromean compare``: the same training with and without centring."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zeromean.study.settings import Settings


def compare(
    data: Annotated[
        str, typer.Option(help="digits, idx:DIR, npz:FILE or imagefolder:DIR[.tar.xz]")
    ] = Settings.data,
    model: Annotated[str, typer.Option(help="mlp, cnn, resnet20 or resnet18")] = Settings.model,
    optimizer: Annotated[
        str, typer.Option(help="sgd, adam, adamw or adagrad")
    ] = Settings.optimizer,
    methods: Annotated[
        str, typer.Option(help="plain and any of gc, gc-conv, gc-update, with commas")
    ] = ",".join(Settings.methods),
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate. [default: the optimizer's usual for the model]"),
    ] = Settings.lr,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = Settings.epochs,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = Settings.batch_size,
    seeds: Annotated[int, typer.Option(help="How many pairs of runs.")] = Settings.seeds,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Settings.out,
    device: Annotated[
        str, typer.Option(help="As torch names it: cpu, cuda, ...")
    ] = Settings.device,
) -> None:
    """Train the same network with and without GC, and tell whether GC helped.

    Both see the same initial weights and the same batches, over several seeds. The results are a
    table, OUT/report.html, OUT/curves.png and OUT/study.sqlite.
    """
    settings = Settings(
        data=data,
        model=model,
        optimizer=optimizer,
        methods=tuple(name.strip() for name in methods.split(",")),
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        seeds=seeds,
        out=out,
        device=device,
    )
    from rich.console import Console

    from zeromean.study import compare as study
    from zeromean.study import report
    from zeromean.study.display import LiveProgress, show_table

    with LiveProgress(settings) as progress:
        try:
            comparison = study.compare(settings, progress.on_epoch, progress.on_run)
        except KeyboardInterrupt:
            kept = f"{progress.kept} of {progress.total} runs kept in {settings.database}"
            nothing = "before the first run ended; nothing kept"
            print(
                f"zeromean: interrupted {'with ' + kept if progress.kept else nothing}",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    # First what cannot fail any more.
    show_table(report.table(comparison), settings.methods, Console())
    print()
    for sentence in report.conclusions(comparison):
        print(sentence)
    picture, page = report.write(comparison)
    print(f"\n{page}\n{picture}\n{settings.database}")

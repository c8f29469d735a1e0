"""``zeromean compare``: the same training with and without centring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.run_study import run_study
from zeromean.study.study import Study, Task


def compare(
    data: Annotated[
        str, typer.Option(help="digits, idx:DIR, npz:FILE or imagefolder:DIR[.tar.xz]")
    ] = Task.data,
    model: Annotated[str, typer.Option(help="mlp, cnn, resnet20 or resnet18")] = Task.model,
    optimizer: Annotated[
        str, typer.Option(help="Any of sgd, adam, adamw, adagrad, with commas")
    ] = "sgd",
    methods: Annotated[
        str, typer.Option(help="plain and any of gc, gc-conv, gc-update, with commas")
    ] = ",".join(Study.methods),
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate. [default: the optimizer's usual for the model]"),
    ] = Study.lr,
    epochs: Annotated[int, typer.Option(help="Passes over the training examples.")] = Task.epochs,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = Task.batch_size,
    seeds: Annotated[int, typer.Option(help="How many pairs of runs.")] = Study.seeds,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16")] = Study.precision,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("zeromean-compare"),
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, ...")] = Study.device,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of a run. [default: torch's, shared by the jobs]"),
    ] = Study.threads,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 1,
    gain: Annotated[
        float | None, typer.Option(help="Tell how many seeds it takes to see this difference.")
    ] = None,
) -> None:
    """Train the same network with and without GC, and tell whether GC helped.

    Both see the same initial weights and the same batches, over several seeds. The results are a
    table, OUT/report.html, OUT/curves.png and OUT/study.sqlite. The same command goes on where it
    was interrupted.
    """
    study = Study(
        tasks=(Task(data=data, model=model, epochs=epochs, batch_size=batch_size),),
        methods=_names(methods),
        optimizers=_names(optimizer),
        seeds=seeds,
        lr=lr,
        precision=precision,
        device=device,
        threads=threads,
    )
    run_study(study, out, jobs, gain)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))

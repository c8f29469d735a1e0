"""``zeromean compare``: the same training with and without centering."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import Device, Gain, Jobs, Precision, Ray, Shard, TensorBoard, Threads
from zeromean.cli.run_study import Ways, run_study
from zeromean.errors import ZeromeanError
from zeromean.study.study import Study
from zeromean.study.task import Task
from zeromean.study.tuning import Tuning


def compare(
    data: Annotated[
        str,
        typer.Option(
            help="digits, idx:DIR, npz:FILE, cifar:DIR, svhn:DIR, imagefolder:DIR[.tar.xz],"
            " miniimagenet:DIR, hf:NAME, text, text:FILE"
        ),
    ] = Task.data,
    model: Annotated[
        str,
        typer.Option(help="such as cnn, resnet20, timm:NAME; of text lstm, transformer"),
    ] = Task.model,
    task: Annotated[
        str | None,
        typer.Option(help="module:function of your own model, data and loss, instead of those."),
    ] = Task.function,
    optimizer: Annotated[
        str,
        typer.Option(
            help="Any of sgd, sgdw, adam, adamw, adagrad, rmsprop, with commas; settings joined by"
            " +: sgd+lr=0.1+decay=0.001, momentum=M, nesterov, alpha=A, head-lr=TIMES"
        ),
    ] = "sgd",
    methods: Annotated[
        str,
        typer.Option(
            help="plain and any of gc, gc-conv, gc-update, zscore, wn, cwn, ws, nnn, clip-value=C,"
            " clip-norm=C, norm=batch|group|none, init=torch|lecun|xavier|he, with commas; joined"
            " by + where they act together"
        ),
    ] = ",".join(Study.methods),
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.", show_default="the optimizer's usual for the model"
        ),
    ] = Study.lr,
    epochs: Annotated[int, typer.Option(help="Passes over the training examples.")] = Task.epochs,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = Task.batch_size,
    train_size: Annotated[
        int | None, typer.Option(help="How many training examples are kept.", show_default="all")
    ] = Task.train_size,
    imbalance: Annotated[
        float, typer.Option(help="How many times more examples the first class has than the last.")
    ] = Task.imbalance,
    augment: Annotated[
        str, typer.Option(help="none, crop-flip, affine or resized-crop-flip")
    ] = Task.augment,
    prepare: Annotated[
        str, typer.Option(help="channel or pixel (standardized), or zca (whitened)")
    ] = Task.prepare,
    gray: Annotated[bool, typer.Option("--gray", help="Make colored images gray.")] = Task.gray,
    resize: Annotated[
        int | None,
        typer.Option(help="Side that image files are scaled to.", show_default="as they are"),
    ] = Task.resize,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side of their middle, which is kept, or of random crops.", show_default="all"
        ),
    ] = Task.crop,
    test_per_class: Annotated[
        int | None,
        typer.Option(help="Images of each class for the test, of data without a test set."),
    ] = Task.test_per_class,
    split: Annotated[
        str, typer.Option(help="fixed, or seed: of such data, a test set for each seed")
    ] = Task.split,
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the learning rate: cosine, constant, every=EPOCHS, drops=EPOCH,EPOCH (times"
            " 0.1), halve=STEPS or exponential=SHARE"
        ),
    ] = Task.schedule,
    tune: Annotated[
        str | None,
        typer.Option(
            help="Learning rates to tune each method over, with commas, on a validation"
            " split; more by a file: zeromean study."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Of Optuna between the --tune rates, instead of a grid.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="How many; more than OUT was finished with adds those it lacks.")
    ] = Study.seeds,
    precision: Precision = Study.precision,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("zeromean-compare"),
    device: Device = Study.device,
    threads: Threads = Study.threads,
    jobs: Jobs = 1,
    ray: Ray = None,
    shard: Shard = False,
    tensorboard: TensorBoard = False,
    gain: Gain = None,
) -> None:
    """Train the same network with and without GC, and tell whether GC helped.

    Both see the same initial weights and the same batches, over several seeds. The results are a
    table, OUT/report.html, OUT/curves.png and OUT/study.sqlite. The same command goes on where it
    was interrupted.
    """
    study = Study(
        tasks=(
            Task(
                data=data,
                model=model,
                function=task,
                epochs=epochs,
                batch_size=batch_size,
                train_size=train_size,
                imbalance=imbalance,
                augment=augment,
                prepare=prepare,
                gray=gray,
                resize=resize,
                crop=crop,
                test_per_class=test_per_class,
                split=split,
                schedule=schedule,
            ),
        ),
        methods=_names(methods),
        optimizers=_names(optimizer),
        seeds=seeds,
        lr=lr,
        tuning=_tuning(tune, trials),
        precision=precision,
        device=device,
        threads=threads,
    )
    run_study(study, out, Ways(jobs, ray, shard, tensorboard), gain)


def _tuning(rates: str | None, trials: int | None) -> Tuning | None:
    if rates is None:
        if trials is not None:
            raise ZeromeanError("--trials without --tune", "both", "add --tune LOWEST,HIGHEST")
        return None
    try:
        numbers = tuple(float(rate) for rate in _names(rates))
    except ValueError as error:
        raise ZeromeanError(
            f"--tune {rates}", "learning rates with commas, such as 0.01,0.1", "mend it"
        ) from error
    return Tuning(rates=numbers, search="grid" if trials is None else "optuna", trials=trials)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))

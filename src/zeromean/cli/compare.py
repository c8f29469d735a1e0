"""``zeromean compare``: the same training with and without centering."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli.options import Device, Gain, Jobs, Precision, Ray, TensorBoard, Threads
from zeromean.cli.run_study import Ways, run_study
from zeromean.errors import ZeromeanError
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import make_task
from zeromean.study.spec.tuning import Tuning


def compare(
    data: Annotated[
        str,
        typer.Option(
            help="digits, idx:DIR, npz:FILE, cifar:DIR, svhn:DIR, imagefolder:DIR[.tar.xz],"
            " miniimagenet:DIR, hf:NAME, text, text:FILE"
        ),
    ] = "digits",
    model: Annotated[
        str,
        typer.Option(help="such as cnn, resnet20, timm:NAME; of text lstm, transformer"),
    ] = "cnn",
    task: Annotated[
        str | None,
        typer.Option(help="module:function of your own model, data and loss, instead of those."),
    ] = None,
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
    ] = "plain,gc",
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.", show_default="the optimizer's usual for the model"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training examples.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 64,
    train_size: Annotated[
        int | None, typer.Option(help="How many training examples are kept.", show_default="all")
    ] = None,
    imbalance: Annotated[
        float, typer.Option(help="How many times more examples the first class has than the last.")
    ] = 1.0,
    augment: Annotated[
        str, typer.Option(help="none, crop-flip, affine or resized-crop-flip")
    ] = "none",
    preprocess: Annotated[
        str, typer.Option(help="channel or pixel (standardized), or zca (whitened)")
    ] = "channel",
    gray: Annotated[bool, typer.Option("--gray", help="Make colored images gray.")] = False,
    resize: Annotated[
        int | None,
        typer.Option(help="Side that image files are scaled to.", show_default="as they are"),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side of their middle, which is kept, or of random crops.", show_default="all"
        ),
    ] = None,
    test_per_class: Annotated[
        int | None,
        typer.Option(help="Images of each class for the test, of data without a test set."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="fixed, or seed: of such data, a test set for each seed")
    ] = "fixed",
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the learning rate: cosine, constant, every=EPOCHS, drops=EPOCH,EPOCH (times"
            " 0.1), halve=STEPS or exponential=SHARE"
        ),
    ] = "cosine",
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
    ] = 5,
    precision: Precision = "float32",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("zeromean-compare"),
    device: Device = "cpu",
    threads: Threads = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    tensorboard: TensorBoard = False,
    gain: Gain = None,
) -> None:
    """Train the same network with and without GC, and tell whether GC helped.

    Both see the same initial weights and the same batches, over several seeds. The results are a
    table, OUT/report.html, OUT/curves.png and OUT/study.sqlite. The same command goes on where it
    was interrupted.
    """
    settings = dict(epochs=epochs, batch_size=batch_size, train_size=train_size)
    settings |= dict(imbalance=imbalance, schedule=_schedule(schedule))
    images = dict(augment=augment, preprocess=preprocess, gray=gray, resize=resize, crop=crop)
    images |= dict(test_per_class=test_per_class, split=split)
    if task is not None:
        settings["function"] = task
    elif data == "text" or data.startswith("text:"):
        settings |= dict(data=data, model=model)
    else:
        settings |= dict(data=data, model=model, **images)
    study = Study(
        tasks=(make_task(settings),),
        methods=_names(methods),
        optimizers=_names(optimizer),
        seeds=seeds,
        lr=lr,
        tuning=_tuning(tune, trials),
        precision=precision,
        device=device,
        threads=threads,
    )
    run_study(study, out, Ways(jobs, ray, tensorboard), gain)


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


def _schedule(text: str) -> object:
    kind, _, value = text.partition("=")
    names = {"every": "step", "drops": "multistep"}
    fields = {"every": "every", "drops": "milestones", "halve": "steps", "exponential": "end"}
    if kind not in fields:
        return text
    numbers = [float(one) if kind == "exponential" else int(one) for one in value.split(",")]
    found = numbers if kind == "drops" else numbers[0]
    return {"kind": names.get(kind, kind), fields[kind]: found}

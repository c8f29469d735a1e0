"""``zeromean compare``: the same training with and without centering."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeromean.cli import compare_program as program
from zeromean.cli.options import Device, Jobs, Precision, Threads, split_names
from zeromean.cli.run_study import run_study
from zeromean.errors import ZeromeanError
from zeromean.study.spec import presets
from zeromean.study.spec.presets import METHOD_NAMES, OPTIMIZER_NAMES
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import IMAGE_MODELS, TEXT_MODELS, TIMM_NAME, ImageTask, make_task
from zeromean.study.spec.tuning import Tuning

DATA = (
    "digits, idx:DIR, npz:FILE, cifar:DIR, svhn:DIR, imagefolder:DIR (or a tar archive),"
    " miniimagenet:DIR, hf:NAME, text or text:FILE."
)
DEFAULTS, TASK = Study(), ImageTask()


def compare(
    context: typer.Context,
    command: program.Command = None,
    data: Annotated[str | None, typer.Option(help=DATA, show_default=TASK.data)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"For images {', '.join((*IMAGE_MODELS, TIMM_NAME))};"
            f" for text {', '.join(TEXT_MODELS)}.",
            show_default=TASK.model,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="module:function or file.py:function with your model, data and loss."),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help=f"Any of {', '.join(OPTIMIZER_NAMES)}, separated by commas.")
    ] = "sgd",
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Any of {', '.join(METHOD_NAMES)}, separated by commas; + joins methods that act"
            " together, such as ws-conv+gc.",
            show_default="plain,gc",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.", show_default="customary for the optimizer and the model"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training examples.")] = TASK.epochs,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = TASK.batch_size,
    tune: Annotated[
        str | None,
        typer.Option(
            help="Learning rates that each method tries on a validation split, separated by commas."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Number of seeds; a larger number extends a finished study.")
    ] = DEFAULTS.seeds,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("zeromean-compare"),
    jobs: Jobs = 1,
    device: Device = DEFAULTS.device,
    precision: Precision = DEFAULTS.precision,
    threads: Threads = None,
    metric: program.MetricOption = None,
    higher: program.Higher = None,
    best: program.Best = False,
    grid: program.Grid = None,
    tune_metric: program.TuneMetric = None,
    variant: program.Variant = None,
    timeout: program.TimeLimit = None,
    shift_seeds: program.ShiftSeeds = False,
    own_folder: program.OwnFolder = False,
    devices: program.Devices = None,
    weight_decay: program.WeightDecay = "auto",
    skip_refused: program.SkipRefused = False,
    dry_run: program.DryRun = False,
) -> None:
    """Train the same network with and without GC, and show whether GC helped.

    Runs of a pair share initial weights and batches. The results are a table, OUT/report.html and
    OUT/study.sqlite. The same command continues an interrupted comparison.

    All other settings (schedule, augmentation, initial weights, clipping, ...) belong in a study
    file: change OUT/study.toml, then run zeromean study FILE.

    With -- COMMAND, the runs are those of any training program, unmodified.
    """
    program.check_form(context, command)
    if command:
        fields = {
            "command": tuple(command), "metric": metric, "higher": higher, "best": best,
            "tune_metric": tune_metric, "timeout": timeout, "shift_seeds": shift_seeds,
            "own_folder": own_folder, "weight_decay": weight_decay, "skip_refused": skip_refused,
            "devices": None if devices is None else split_names(devices),
        }  # fmt: skip
        own = program.program_study(fields, methods, seeds, grid or (), variant or (), threads)
        if dry_run:
            program.dry_run(own, timeout)
        else:
            run_study(own, out, jobs)
        return
    study = Study(
        tasks=(make_task(_task(data, model, task, epochs, batch_size)),),
        methods=tuple(map(presets.method, split_names("plain,gc" if methods is None else methods))),
        optimizers=tuple(map(presets.optimizer, split_names(optimizer))),
        seeds=seeds,
        lr=lr,
        tuning=None if tune is None else Tuning(rates=_rates(tune)),
        precision=precision,  # type: ignore[arg-type]  # checked there
        device=device,
        threads=threads,
    )
    run_study(study, out, jobs)


def _task(
    data: str | None, model: str | None, function: str | None, epochs: int, batch_size: int
) -> dict[str, object]:
    table = {"data": data, "model": model, "function": function}
    given = [f"--{name}" for name in ("data", "model") if table[name] is not None]
    if function is not None and given:
        raise ZeromeanError(
            f"--task {function} brings its own data and model, but {' and '.join(given)} is given",
            f"Remove {' and '.join(given)}",
        )
    return {
        **{name: value for name, value in table.items() if value is not None},
        "epochs": epochs,
        "batch_size": batch_size,
    }


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(rate) for rate in split_names(text))
    except ValueError as error:
        raise ZeromeanError(
            f"--tune {text!r} is not a list of numbers", "Use the form --tune 0.01,0.03,0.1"
        ) from error

"""The program form of ``zeromean compare``: ``zeromean compare ... -- COMMAND``."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from msgspec.structs import replace

from zeromean.cli.options import split_names
from zeromean.cli.output import echo
from zeromean.cli.typed import typed_options, typed_words
from zeromean.errors import ZeromeanError
from zeromean.study.spec import presets
from zeromean.study.spec.method import Method
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.study import Study
from zeromean.tables import amount

PANEL = "Programs: zeromean compare --metric ... -- COMMAND"
DRY_RUN_SECONDS = 60.0
_Value = TypeVar("_Value")
# The options of the form for built-in tasks.
BUILT_IN = (
    "data", "model", "task", "optimizer", "lr", "epochs", "batch_size", "tune", "device",
    "precision",
)  # fmt: skip
OPTIONS = (
    "metric", "higher", "best", "grid", "tune_metric", "variant", "timeout", "shift_seeds",
    "own_folder", "devices", "weight_decay", "skip_refused", "dry_run",
)  # fmt: skip


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, **more)


Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- COMMAND]",
        help="A training program to compare, with the placeholders {seed}, {out}, {port} and those"
        " of --grid.",
        show_default=False,
    ),
]
MetricOption = Annotated[
    str | None,
    _option(
        "NAME=REGEX for what the program prints (NUMBER stands for any number), or"
        " NAME=csv:FILE:COLUMN, NAME=json:FILE:a.b, NAME=jsonl:FILE:KEY for a file below {out}."
    ),
]
Higher = Annotated[
    bool | None,
    _option("Which metric is better.", "--higher/--lower", show_default="by its name"),
]
Best = Annotated[bool, _option("Score a run by its best value, not its last.", "--best")]
Grid = Annotated[
    list[str] | None,
    _option(
        "NAME=VALUE,VALUE: values of {NAME} that each method tries; repeatable.",
        show_default=False,
    ),
]
TuneMetric = Annotated[
    str | None,
    _option(
        "Metric that chooses among the values, in the form of --metric; its name shows the"
        " direction.",
        show_default="the metric",
    ),
]
Variant = Annotated[
    list[str] | None,
    _option(
        "NAME=WORDS: a method NAME that adds words to COMMAND; METHOD@NAME combines it.",
        show_default=False,
    ),
]
TimeLimit = Annotated[float | None, _option("Time limit of a run in seconds.", "--timeout")]
ShiftSeeds = Annotated[
    bool,
    _option(
        "Add the seed of a run to the numbers that the program passes to random.seed,"
        " numpy.random.seed, torch.manual_seed and torch.cuda.manual_seed_all.",
        "--shift-seeds",
    ),
]
OwnFolder = Annotated[
    bool, _option("Start each run in its own copy of the working folder.", "--own-folder")
]
Devices = Annotated[
    str | None,
    _option("Values of CUDA_VISIBLE_DEVICES such as 0,1,2,3: one per run at a time."),
]
WeightDecay = Annotated[
    str, _option("coupled or decoupled, for optimizers that zeromean does not know.")
]
SkipRefused = Annotated[
    bool,
    _option("Leave an optimizer alone if it cannot be centralized.", "--skip-refused"),
]
DryRun = Annotated[
    bool,
    _option(
        f"Run plain once, for at most {DRY_RUN_SECONDS:.0f} s or --timeout, and show what --metric"
        " finds.",
        "--dry-run",
    ),
]


def check_form(context: typer.Context, command: Sequence[str] | None) -> None:
    """Raise if options of one form are given with the other.

    Args:
        context: The context of the command.
        command: The words of the program, or None for a built-in task.

    Raises:
        ZeromeanError: An option belongs to the other form, or ``--`` is missing.
    """
    others, form = (BUILT_IN, "a program") if command else (OPTIONS, "a built-in task")
    for option in typed_options(context, others):
        fix = f"Remove {option}" if command else f"Add -- COMMAND, or remove {option}"
        raise ZeromeanError(f"{option} is not an option of {form}", fix)
    if command and "--" not in typed_words(context):
        raise ZeromeanError(
            f"the command begins at {command[0]!r} without a -- before it",
            f"Write: zeromean compare ... -- {shlex.join(command)}",
        )


def program_study(
    task: Mapping[str, object],
    methods: str | None,
    seeds: int,
    grid: Sequence[str],
    variants: Sequence[str],
    threads: int | None,
) -> Study:
    """Return the study of a program.

    Args:
        task: Fields of the :class:`ProgramTask`; None for the default.
        methods: The methods, separated by commas; None for plain and gc, or plain and the variants.
        seeds: Number of seeds.
        grid: Texts of the form ``NAME=VALUE,VALUE``.
        variants: Texts of the form ``NAME=WORDS``.
        threads: Number of CPU threads per run, or None.

    Raises:
        ZeromeanError: A text does not have its form, or the study is not valid.
    """
    if task.get("metric") is None:
        raise ZeromeanError(
            "a program needs --metric", "Add, for example, --metric 'accuracy=test acc NUMBER'"
        )
    words = _table("--variant", map(_variant, variants))
    names = ["plain", *(words or ["gc"])] if methods is None else split_names(methods)
    for variant in words.keys() - {name.rpartition("@")[2] for name in names}:
        raise ZeromeanError(
            f"--variant {variant} is in none of the methods {methods}",
            f"Add {variant} or METHOD@{variant} to --methods, or remove --variant {variant}",
        )
    values = _table("--grid", map(_values, grid))
    return Study(
        tasks=(ProgramTask(**{k: v for k, v in task.items() if v is not None}),),  # type: ignore[arg-type]
        methods=tuple(_method(name, words) for name in names),
        seeds=seeds,
        tuning={"values": values} if values else None,  # type: ignore[arg-type]
        threads=threads,
    )


def dry_run(study: Study, timeout: float | None) -> None:
    """Run plain with the first seed, and show what the metric finds; nothing is kept.

    Args:
        study: The study of one program.
        timeout: Time limit in seconds.
    """
    from zeromean.study.tasks.program import ProgramRunner, first_job

    (task,) = study.programs
    task = replace(task, timeout=timeout or DRY_RUN_SECONDS)
    with tempfile.TemporaryDirectory(prefix="zeromean-dry-run-") as folder:
        runner = ProgramRunner(study, task)
        runner.check((), ())
        run = runner.run(first_job(study, Path(folder, "runs", "run")), show=echo)
    metric = task.metric_of()
    values = [epoch.score for epoch in run.epochs]
    if not values:
        raise ZeromeanError(
            f"{task.label} fails: {run.failure}",
            "Correct the command or the metric, or raise --timeout",
        )
    better = "higher" if metric.higher_is_better else "lower"
    echo(
        f"{amount(len(values), 'value')} of {metric.name} ({better} is better):"
        f" first {values[0]:g}, last {values[-1]:g}"
    )
    if run.failure:
        echo(f"{task.label}: {run.failure}")


def _table(option: str, pairs: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    """Return the pairs as a dictionary, and raise if a name is repeated."""
    table: dict[str, _Value] = {}
    for name, value in pairs:
        if name in table:
            raise ZeromeanError(f"{option} {name} is given twice", "Keep one")
        table[name] = value
    return table


def _method(name: str, words: dict[str, tuple[str, ...]]) -> Method:
    base, at, variant = name.rpartition("@")
    if at and variant not in words:
        raise ZeromeanError(
            f"there is no variant {variant!r} for the method {name!r}",
            f"Add --variant {variant}=...",
        )
    if name in words:
        return Method(name, arguments=words[name])
    if not at:
        return presets.method(name)
    return replace(presets.method(base), label=name, arguments=words[variant])


def _variant(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, words = text.partition("=")
    try:
        found = tuple(shlex.split(words))
    except ValueError as error:
        raise ZeromeanError(
            f"--variant {text!r} has an open quotation ({error})", "Close it"
        ) from error
    name = name.strip()
    if not (name and equals and found) or "@" in name or "," in name:
        raise ZeromeanError(
            f"--variant {text!r} is not of the form NAME=WORDS",
            "Write it as, for example, --variant 'warmup=--warmup 500'",
        )
    if name in presets.METHOD_NAMES:
        raise ZeromeanError(f"--variant {name} has the name of a method", "Use another name")
    return name, found


def _values(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, numbers = text.partition("=")
    try:
        return name.strip(), tuple(float(one) for one in numbers.split(","))
    except ValueError as error:
        raise ZeromeanError(
            f"--grid {text!r} is not of the form NAME=NUMBER,NUMBER",
            "Write it as, for example, --grid lr=0.01,0.03,0.1; compare texts by --variant",
        ) from error

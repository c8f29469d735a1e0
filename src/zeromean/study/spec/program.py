"""A training program of the user as a task of a study, and the metric that it reports."""

from __future__ import annotations

import itertools
import re
from typing import Literal, NamedTuple

from zeromean.study.spec.method import Method
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.records import START_GRADIENT, START_WEIGHTS
from zeromean.study.spec.validation import SettingError, Spec, check_distinct, check_range

# The placeholders that every command can have; tuned values have names of their own.
PLACEHOLDERS = ("seed", "out", "port")
FILE_KINDS = ("csv", "json", "jsonl")
# Any float as programs print it, one group. The look-behinds let it begin only where a number
# begins, so that ``.*NUMBER`` reads whole numbers: not after a digit, a decimal point, an exponent
# or a sign.
NUMBER = (
    r"(?<!\d)(?<!\d\.)(?<![\d.][eE])(?<![\d.][eE][-+])(?<!(?<![\w+-])[-+])(?<!(?<![\w.])\.)"
    r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?i:nan|inf(?:inity)?)\b)"
)
_HIGHER = (
    "acc", "accuracy", "top1", "top5", "f1", "auc", "precision", "recall", "bleu", "rouge", "map",
    "miou", "iou", "dice", "psnr", "ssim", "reward", "return", "score", "r2",
)  # fmt: skip
_LOWER = (
    "loss", "error", "err", "perplexity", "ppl", "nll", "bpb", "bpc", "mse", "mae", "rmse", "fid",
    "wer", "cer",
)  # fmt: skip
# The name under which runs record the metric.
SCORE = "score"
# Columns of the records of a run, whose names the other metrics of a program cannot have.
RECORDED = (
    SCORE, "seconds", "taken_over", START_WEIGHTS, START_GRADIENT, "task", "optimizer", "method",
    "seed", "trial", "epoch",
)  # fmt: skip


class MetricSource(NamedTuple):
    """The place of a metric in the output of a program or in a file.

    Args:
        name: Name of the metric.
        kind: "output" for what it prints, or the format of a file: "csv", "json" or "jsonl".
        pattern: Regular expression with one group, for "output".
        file: Path below the folder of the run, which may contain ``*``.
        key: Column of a CSV file, path such as ``a.b`` into a JSON file, or key of each line.
    """

    name: str
    kind: str
    pattern: str = ""
    file: str = ""
    key: str = ""

    def describe(self) -> str:
        """Return where the metric is, in words."""
        if self.kind == "output":
            return f"the pattern {self.pattern!r} in its output"
        return f"{self.key} in the file {self.file}"


def parse_metric(text: str, setting: str = "metric") -> MetricSource:
    r"""Return the metric that a text describes.

    The forms are ``NAME=REGEX``, ``NAME=csv:FILE:COLUMN``, ``NAME=json:FILE:a.b`` and
    ``NAME=jsonl:FILE:KEY``. ``NUMBER`` in a regular expression stands for any float.

    Args:
        text: The description.
        setting: Name of the setting, for messages.

    Raises:
        ZeromeanError: The text has none of the forms.

    Example:
        >>> parse_metric("val=csv:*/summary.csv:eval_top1").key
        'eval_top1'
    """
    name, equals, source = text.partition("=")
    if not (name.strip() and equals and source):
        raise SettingError(
            setting,
            f"{setting} {text!r} is not of the form NAME=REGEX or NAME=csv:FILE:COLUMN",
            r"Write it as, for example, 'accuracy=test acc NUMBER'",
        )
    name = name.strip()
    kind, _, place = source.partition(":")
    if kind in FILE_KINDS:
        file, _, key = place.rpartition(":")
        if not (file and key):
            key = {"csv": "COLUMN", "json": "a.b", "jsonl": "KEY"}[kind]
            raise SettingError(
                setting,
                f"{setting} {text!r} names no file or no {key}",
                f"Write it as {name}={kind}:FILE:{key}",
            )
        if file.startswith("/") or ".." in file.split("/"):
            raise SettingError(
                setting,
                f"{setting} reads {file!r}, which is not below the folder of a run",
                "Let the program write below {out}, and name the file relative to it",
            )
        return MetricSource(name, kind, file=file, key=key)
    try:
        groups = re.compile(source.replace("NUMBER", NUMBER)).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise SettingError(
            setting,
            f"{setting} {source!r} is not a regular expression ({error})",
            r"Write \( for a parenthesis that the program prints, and likewise for []{}.*+?|^$",
        ) from error
    if groups != 1:
        raise SettingError(
            setting,
            f"the pattern {source!r} has {groups or 'no'} groups; one has to hold the number",
            "Put NUMBER in the place of the number"
            if not groups
            else "Write (?:...) for the groups without the number",
        )
    return MetricSource(name, "output", pattern=source)


class ProgramTask(Spec, frozen=True, kw_only=True, tag_field="kind", tag="program"):
    """Any training program, started with each method through ``zeromean run``.

    ``{seed}``, ``{out}`` (a fresh folder of the run), ``{port}`` (a free port) and the names in
    ``tuning.values`` are filled in; other braces stay as they are. A command without ``{seed}``
    gets its seed from outside: ``random``, NumPy and torch are seeded before the program starts.

    Args:
        command: The words of the command; without a Python in front, ``train.py`` and ``-m module``
            run in this one.
        metric: The metric to compare, see :func:`zeromean.study.spec.program.parse_metric`.
        other_metrics: Further metrics to record at each point but not to compare, in the form of
            ``metric``; each is read from a file.
        higher: Whether a higher metric is better; None to infer it from the name.
        best: Whether the best value counts instead of the last one.
        tune_metric: The metric that tuning uses, in the form of ``metric``; None for ``metric``.
            Whether a higher value is better is inferred from its name, unless both have one name.
        shift_seeds: Whether the run's seed is added to the numbers that the program passes to
            ``random.seed``, ``numpy.random.seed`` and ``torch.manual_seed``.
        own_folder: Whether each run starts in its own copy of the working folder.
        timeout: Time limit of a run in seconds, or None.
        devices: Values of ``CUDA_VISIBLE_DEVICES``, each used by one run at a time; if empty, the
            variable is left alone.
        weight_decay: How optimizers that zeromean does not know apply weight decay, as in
            :func:`zeromean.centralize`.
        skip_refused: Whether optimizers that cannot be centralized are left alone.

    Raises:
        ZeromeanError: A value is not allowed, or values do not go together.

    Example:
        >>> task = ProgramTask(command=("train.py", "--seed", "{seed}"), metric="loss=loss NUMBER")
        >>> task.label, task.metric_of().higher_is_better
        ('train.py', False)
    """

    command: tuple[str, ...]
    metric: str
    other_metrics: tuple[str, ...] = ()
    higher: bool | None = None
    best: bool = False
    tune_metric: str | None = None
    shift_seeds: bool = False
    own_folder: bool = False
    timeout: float | None = None
    devices: tuple[str, ...] = ()
    weight_decay: Literal["auto", "coupled", "decoupled"] = "auto"
    skip_refused: bool = False

    # A program is one unit of training; its curve has as many points as it reports.
    epochs = 1

    def _check(self) -> None:
        if not self.command or not self.command[0]:
            raise SettingError("command", "command is empty", "Name a program")
        sources = [parse_metric(self.metric)]
        if self.tune_metric is not None:
            sources.append(parse_metric(self.tune_metric, "tune_metric"))
        others = [parse_metric(one, "other_metrics") for one in self.other_metrics]
        if others:
            check_distinct("other_metrics", [sources[0].name, *(one.name for one in others)])
        for source in others:
            if source.name in RECORDED:
                raise SettingError(
                    "other_metrics",
                    f"{source.name} is a name under which runs record something else",
                    "Use another name",
                )
            if source.kind == "output":
                raise SettingError(
                    "other_metrics",
                    f"{source.name} is read from the output, which only the metric can be",
                    f"Write it as {source.name}=jsonl:FILE:KEY",
                )
        for source in [*sources, *others]:
            if source.kind != "output" and not (self.has("out") or self.own_folder):
                raise SettingError(
                    "metric",
                    f"{source.name} is read from a file, but the command has no {{out}}",
                    "Pass {out} to the program as its output folder, or use --own-folder (in a"
                    " study file, own_folder = true)",
                )
        if self.timeout is not None:
            check_range("timeout", self.timeout, 0, 1e9, exclusive=True)
        if not all(self.devices):
            raise SettingError(
                "devices", "devices has an empty entry, which hides every GPU", "Remove the entry"
            )
        if self.devices:
            check_distinct("devices", self.devices)
        if self.shift_seeds and self.has("seed"):
            raise SettingError(
                "shift_seeds",
                "shift_seeds is set, but the command has {seed}",
                "Remove one of them",
            )
        self.tuning_metric()

    def has(self, placeholder: str) -> bool:
        """Return whether the command contains a placeholder."""
        return any(f"{{{placeholder}}}" in word for word in self.command)

    def metric_of(self) -> Metric:
        """Return the metric, with its direction.

        Raises:
            ZeromeanError: The direction is not given, and the name does not show it.
        """
        name = parse_metric(self.metric).name
        higher = _direction(name) if self.higher is None else self.higher
        if higher is None:
            raise SettingError(
                "higher",
                f"whether a higher {name} is better is not known",
                "Pass --higher or --lower, or set higher in the study file",
            )
        return Metric(name=name, higher_is_better=higher)

    def tuning_metric(self) -> Metric:
        """Return the metric that tuning uses, with its own direction.

        Raises:
            ZeromeanError: Its name is not that of the metric and does not show the direction.
        """
        metric = self.metric_of()
        if self.tune_metric is None:
            return metric
        name = parse_metric(self.tune_metric, "tune_metric").name
        higher = metric.higher_is_better if name == metric.name else _direction(name)
        if higher is None:
            raise SettingError(
                "tune_metric",
                f"whether a higher {name} is better is not known",
                f"Name it {metric.name} to tune in the direction of the metric, or choose a name"
                " that shows the direction, such as val_loss",
            )
        return Metric(name=name, higher_is_better=higher)

    @property
    def source(self) -> str:
        """The program, such as ``train.py`` or ``package.train``."""
        for word, following in itertools.pairwise((*self.command, "")):
            if word.endswith((".py", ".sh")) and not word.startswith("-"):
                return word
            if word == "-m" and following:
                return following
        return self.command[0]

    @property
    def title(self) -> str:
        """The program, for titles."""
        return self.source

    @property
    def label(self) -> str:
        """The name of the task in tables and in the database."""
        return self.source


def _direction(name: str) -> bool | None:
    """Return whether a higher metric of this name is better; None if the name does not show it."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    directions = {one in _HIGHER for one in words if one in _HIGHER + _LOWER}
    return directions.pop() if len(directions) == 1 else None


def check_method(method: Method) -> None:
    """Raise if a method cannot be applied to a program from outside.

    Raises:
        ZeromeanError: It changes the network or the loss.
    """
    for name in method.changed:
        if name not in ("label", "gradient", "at", "arguments"):
            reason = (
                "re-parametrizations have to exist before the program makes its optimizer"
                if name == "reparametrization"
                else f"{name} belongs to the program itself"
            )
            raise SettingError(
                "methods",
                f"the method {method.label} cannot be applied to a program: {reason}",
                "Use plain, gc, gc-conv, gc-update, gc-conv-update, gc-tensor or zscore",
            )

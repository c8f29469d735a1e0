"""What a study is asked to do: tasks x methods x optimizers x seeds, checked when declared."""

from __future__ import annotations

import itertools
import math
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeromean.errors import ZeromeanError

if TYPE_CHECKING:
    from zeromean.study.progress import Watcher
    from zeromean.study.results import Results

# The names of choices live in tables beside their code, which loads torch; they are imported in
# the checks below, so that `zeromean --help` stays quick.

LARGEST_FLOAT32 = 3.4e38
PRECISIONS = ("float32", "bfloat16")


class SettingError(ZeromeanError):
    """A setting that cannot be used, with its name, so that a file's line can be told.

    Args:
        setting: The name of the field.
        got, wanted, fix: As in every :class:`zeromean.ZeromeanError`.
    """

    def __init__(self, setting: str, got: str, wanted: str, fix: str) -> None:
        super().__init__(got, wanted, fix)
        self.setting = setting


@dataclass(frozen=True)
class Task:
    """What is learned: data, a network, and how long it is trained.

    Args:
        data: ``digits``, ``idx:DIR``, ``npz:FILE`` or ``imagefolder:DIR`` (or a tar archive).
        model: ``mlp``, ``cnn``, ``resnet20`` or ``resnet18``.
        epochs: Passes over the training examples.
        batch_size: Examples a step.

    Raises:
        ZeromeanError: A name is unknown or a number out of range.

    Example:
        >>> Task(model="mlp", epochs=3).label
        'digits/mlp'
    """

    data: str = "digits"
    model: str = "cnn"
    epochs: int = 12
    batch_size: int = 64

    def __post_init__(self) -> None:
        from zeromean.study.networks.build import NETWORKS

        _check_name("model", self.model, NETWORKS)
        _check_at_least("epochs", self.epochs, 1)
        _check_at_least("batch_size", self.batch_size, 1)

    @property
    def label(self) -> str:
        """What the task is called in tables and in the database: what is not as usual is told."""
        usual = Task()
        extras = [
            f"{one.name}={getattr(self, one.name)}"
            for one in fields(self)
            if one.name not in ("data", "model", "epochs", "batch_size")
            and getattr(self, one.name) != getattr(usual, one.name)
        ]
        return " ".join([f"{self.data}/{self.model}", *extras])

    @property
    def early_epoch(self) -> int:
        """A third of the way: where a head start shows that the end no longer tells."""
        return math.ceil(self.epochs / 3)


@dataclass(frozen=True)
class Study:
    """Every method on every task with every optimizer and seed, each from the same start.

    Args:
        tasks: What is learned; no two alike.
        methods: Two or more, ``plain`` among them, which the others are compared with.
        optimizers: One or more of ``sgd``, ``adam``, ``adamw`` and ``adagrad``.
        seeds: How many; seeds 0, 1, ... are used, each for every method.
        lr: Peak learning rate for all; None takes the optimizer's customary one for the model.
        precision: Of the networks' computations; weights are float32 in any case.
        device: As torch names it, such as ``cpu`` or ``cuda:0``.
        threads: CPU threads of a run; None shares torch's usual number among the processes.

    Raises:
        ZeromeanError: A name is unknown or repeated, or a number out of range.

    Example:
        >>> import tempfile
        >>> study = Study(tasks=(Task(model="mlp", epochs=1),), seeds=1)
        >>> [run.key.method for run in study.run(tempfile.mkdtemp()).runs]
        ['plain', 'gc']
    """

    tasks: tuple[Task, ...] = field(default_factory=lambda: (Task(),))
    methods: tuple[str, ...] = ("plain", "gc")
    optimizers: tuple[str, ...] = ("sgd",)
    seeds: int = 5
    lr: float | None = None
    precision: str = "float32"
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        from zeromean.study.optimizers import OPTIMIZERS

        for name in ("tasks", "methods", "optimizers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists will do too
        for name in self.optimizers:
            _check_name("optimizer", name, OPTIMIZERS, setting="optimizers")
        _check_unlike("optimizers", self.optimizers)
        _check_unlike("tasks", [task.label for task in self.tasks])
        self._check_methods()
        _check_at_least("seeds", self.seeds, 1)
        _check_name("precision", self.precision, PRECISIONS)
        if self.threads is not None:
            _check_at_least("threads", self.threads, 1)
        if self.lr is not None and not 0 < self.lr <= LARGEST_FLOAT32:
            raise SettingError(
                "lr", f"lr = {self.lr}", "a positive float32", "pass one, or none for a default"
            )

    def _check_methods(self) -> None:
        from zeromean.study.methods import BASELINE, Method

        try:
            for name in self.methods:
                Method.parse(name)
        except ZeromeanError as error:
            raise SettingError("methods", error.got, error.wanted, error.fix) from error
        _check_unlike("methods", self.methods)
        given = f"methods {','.join(self.methods)}"
        if BASELINE not in self.methods:
            raise SettingError(
                "methods", given, f"{BASELINE} among them, to compare with", f"add {BASELINE}"
            )
        if len(self.methods) == 1:
            raise SettingError(
                "methods", given, f"a method besides {BASELINE}", "add one, such as gc"
            )

    def task(self, label: str) -> Task:
        """The task of that label."""
        return next(task for task in self.tasks if task.label == label)

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Label of the task and name of the optimizer of each comparison of the methods."""
        return list(itertools.product((task.label for task in self.tasks), self.optimizers))

    def run(self, out: Path | str, *, jobs: int = 1, watcher: Watcher | None = None) -> Results:
        """Train what ``out`` does not hold yet, and keep each run there once it ended.

        Args:
            out: Folder of the study. One that holds this very study is gone on with, at the last
                epoch; the results are those of a study that was never interrupted.
            jobs: Processes that train side by side.
            watcher: Told of epochs and runs as they end.

        Returns:
            All runs. ``zeromean.study.report.write`` makes files of them.

        Raises:
            ZeromeanError: The data, the device or the folder cannot be used or do not fit the
                settings, or the folder holds another study; all but a full disk or memory show
                before any training.
        """
        from zeromean.study.conduct import conduct

        return conduct(self, Path(out), jobs=jobs, watcher=watcher)

    def command(self, out: Path) -> str:
        """The command that repeats this study, every setting spelled out.

        A study that flags cannot tell is repeated from the file that its folder keeps.
        """
        if len(self.tasks) > 1:
            return shlex.join(["zeromean", "study", str(out / "study.toml"), "--out", str(out)])
        (task,) = self.tasks
        options = {
            **{one.name: getattr(task, one.name) for one in fields(task)},
            "optimizer": ",".join(self.optimizers),
            "methods": ",".join(self.methods),
            "lr": self.lr,
            "seeds": self.seeds,
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
            "out": out,
        }
        words = [
            word
            for name, value in options.items()
            if value is not None
            for word in (
                f"--{name.replace('_', '-')}",
                f"{value:g}" if name == "lr" else str(value),
            )
        ]
        return shlex.join(["zeromean", "compare", *words])


def _check_name(what: str, name: str, known: Iterable[str], setting: str | None = None) -> None:
    if name not in known:
        raise SettingError(
            setting or what, f"{what} {name!r}", ", ".join(known), f"name one of these {what}s"
        )


def _check_at_least(name: str, number: int, least: int) -> None:
    if number < least:
        raise SettingError(name, f"{name} = {number}", f"{least} or more", "raise it")


def _check_unlike(name: str, values: Iterable[Any]) -> None:
    counts = Counter(values)
    if not counts:
        raise SettingError(name, f"no {name}", "one or more", "name one")
    repeated = [value for value, count in counts.items() if count > 1]
    if repeated:
        raise SettingError(
            name,
            f"{name} {', '.join(counts)} with {repeated[0]} repeated",
            f"each {name[:-1]} once",
            f"name {repeated[0]} once",
        )

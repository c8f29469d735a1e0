"""The declaration of a study: tasks x methods x optimizers x seeds."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from zeromean.study.spec import presets
from zeromean.study.spec.method import BASELINE, Method
from zeromean.study.spec.optimizer import OF_PROGRAM, Optimizer, equivalent
from zeromean.study.spec.program import PLACEHOLDERS, ProgramTask, check_method
from zeromean.study.spec.records import FINAL, Key
from zeromean.study.spec.task import FunctionTask, ImageTask, TaskSpec, TrainedTask, make_task
from zeromean.study.spec.tuning import Tuning
from zeromean.study.spec.validation import (
    LARGEST_FLOAT32,
    SettingError,
    Spec,
    build,
    check_distinct,
    check_name,
    check_range,
)

MAX_SEEDS = 100_000
# More than any machine has; torch stores the number in 32 bits.
MAX_THREADS = 1024
DEFAULT_OPTIMIZERS = (Optimizer("sgd"),)
_Part = TypeVar("_Part", bound="TaskSpec | Method | Optimizer")


class Study(Spec, frozen=True, kw_only=True):
    """A comparison of methods: each is trained on every task with every optimizer and seed.

    Each seed gives every method the same start. A study is only data; :func:`zeromean.study.run`
    runs it. A short name can replace a table: ``methods=("plain", "gc", "ws-conv+gc")`` and
    ``optimizers=("sgd", "adamw")``; see :mod:`zeromean.study.spec.presets`.

    Args:
        tasks: One or more tasks, each with its own label.
        methods: Two or more methods, including ``plain``, which the others are compared with.
        optimizers: One or more optimizers.
        seeds: Number of seeds; every method is trained with the seeds 0, 1, ..., without those that
            ``tuning`` uses.
        lr: Peak learning rate of all optimizers. None uses each optimizer's own ``lr``, or else the
            customary one for the optimizer and the model.
        tuning: Search for each method's own learning rate; None tunes nothing.
        precision: Precision of the networks' computations, "float32" or "bfloat16"; weights are
            float32 in either case.
        device: Device in torch's notation, such as ``cpu`` or ``cuda:0``.
        threads: Number of CPU threads per run; None divides torch's default among the processes.
        note: Text that is shown above the results, wherever they are printed or written.

    Raises:
        ZeromeanError: A name is unknown or repeated, or a value is not allowed.

    Example:
        >>> study = Study(tasks=(ImageTask(model="mlp", epochs=1),), seeds=1)
        >>> study.method_labels
        ('plain', 'gc')
    """

    tasks: tuple[TaskSpec, ...] = (ImageTask(),)
    methods: tuple[Method, ...] = (Method(BASELINE), Method("gc", gradient="gc"))
    optimizers: tuple[Optimizer, ...] = DEFAULT_OPTIMIZERS
    # With fewer seeds no difference can be significant at the 5% level.
    seeds: int = 6
    lr: float | None = None
    tuning: Tuning | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    threads: int | None = None
    note: str | None = None

    def _resolve(self, name: str, value: Any) -> Any:
        if name == "tuning" and isinstance(value, dict):
            return build(Tuning, value, name)
        if name == "optimizers" and value == DEFAULT_OPTIMIZERS and self.programs:
            return (Optimizer(OF_PROGRAM),)
        if name in _OF_TABLE and isinstance(value, dict):
            raise SettingError(name, f"{name} is one table, not a list", f"Write [[{name}]]")
        if name in _OF_TABLE and isinstance(value, (list, tuple)):
            return tuple(_part(name, one, f"{name}[{i}]") for i, one in enumerate(value))
        return value

    def _check(self) -> None:
        self._check_different("methods", "changes")
        self._check_different("optimizers", "acts_as")
        for name, fix in _SAME_LABEL.items():
            check_distinct(name, [one.label for one in getattr(self, name)], fix)
        if BASELINE not in self.method_labels:
            raise SettingError(
                "methods",
                f"methods are {', '.join(self.method_labels)}, without {BASELINE}, which the others"
                " are compared with",
                f"Add {BASELINE}",
            )
        if len(self.methods) == 1:
            raise SettingError(
                "methods", f"{BASELINE} is the only method", "Add another one, such as gc"
            )
        check_range("seeds", self.seeds, 1, MAX_SEEDS)
        if self.threads is not None:
            check_range("threads", self.threads, 1, MAX_THREADS)
        self._check_programs()
        self._check_rates()

    def _check_different(self, name: str, attribute: str) -> None:
        for one, other in itertools.combinations(getattr(self, name), 2):
            if getattr(one, attribute) == getattr(other, attribute):
                raise SettingError(
                    name, f"the {name} {one.label} and {other.label} are the same", "Drop one"
                )

    def _check_programs(self) -> None:
        programs = self.programs
        if programs and len(programs) < len(self.tasks):
            raise SettingError(
                "tasks", "programs and other tasks are in one study", "Make one study of each kind"
            )
        names = [one.name for one in self.optimizers]
        if programs and names != [OF_PROGRAM]:
            raise SettingError(
                "optimizers", "a program makes its own optimizers", "Remove optimizers"
            )
        if not programs and OF_PROGRAM in names:
            raise SettingError(
                "optimizers", 'the optimizer "program" needs a task with a command', "Use another"
            )
        for method in self.methods:
            if programs:
                check_method(method)
            elif method.arguments:
                raise SettingError(
                    "methods",
                    f"the method {method.label} has arguments, which only a program can have",
                    "Remove arguments",
                )
        values = self.tuning.values if self.tuning is not None else {}
        for name in values:
            if not any(task.has(name) for task in programs):
                raise SettingError(
                    "tuning",
                    f"tuning has values for {name}, but no command contains {{{name}}}",
                    f"Put {{{name}}} into the command",
                )
            if name in PLACEHOLDERS:
                raise SettingError(
                    "tuning", f"the placeholder {name} is zeromean's own", "Use another name"
                )
        if programs and self.lr is not None:
            raise SettingError("lr", "a program has its own learning rate", "Remove lr")
        if self.tuning is None and any(task.tune_metric is not None for task in programs):
            raise SettingError(
                "tune_metric", "tune_metric is given, but nothing is tuned", "Remove tune_metric"
            )
        if programs and self.tuning is not None and not values:
            raise SettingError(
                "tuning", "tuning of a program needs values", "Use --grid NAME=VALUE,VALUE"
            )

    def _check_rates(self) -> None:
        if self.lr is not None:
            check_range("lr", self.lr, 0, LARGEST_FLOAT32, exclusive=True)
        if self.lr is not None and self.tuning is not None:
            raise SettingError("lr", "lr and tuning are both given", "Remove lr")
        functions = [task.function for task in self.tasks if isinstance(task, FunctionTask)]
        for one in self.optimizers:
            if one.lr is not None and (self.lr is not None or self.tuning is not None):
                other = "tuning" if self.lr is None else f"lr = {self.lr:g}"
                raise SettingError(
                    "optimizers",
                    f'the optimizer "{one.label}" has a learning rate, and so has {other}',
                    "Remove one of them",
                )
            if one.weight_decay is not None and self.tuning and self.tuning.weight_decays:
                raise SettingError(
                    "optimizers",
                    f'the optimizer "{one.label}" has a weight decay, and so has tuning',
                    "Remove one of them",
                )
            if functions and one.lr is None and self.lr is None and self.tuning is None:
                raise SettingError(
                    "lr",
                    f"the task {functions[0]} has no customary learning rate, and none is given",
                    "Pass lr or tuning",
                )

    @property
    def programs(self) -> list[ProgramTask]:
        """The tasks that are programs of the user."""
        return [task for task in self.tasks if isinstance(task, ProgramTask)]

    @property
    def trained_tasks(self) -> list[TrainedTask]:
        """The tasks that zeromean trains itself."""
        return [task for task in self.tasks if isinstance(task, TrainedTask)]

    @property
    def method_labels(self) -> tuple[str, ...]:
        """Labels of the methods."""
        return tuple(one.label for one in self.methods)

    @property
    def optimizer_labels(self) -> tuple[str, ...]:
        """Labels of the optimizers."""
        return tuple(one.label for one in self.optimizers)

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Pairs of a task's and an optimizer's label; the methods are compared in each pair."""
        return list(itertools.product((task.label for task in self.tasks), self.optimizer_labels))

    def task(self, label: str) -> TaskSpec:
        """Return the task of a label.

        Raises:
            ZeromeanError: The study has no such task.
        """
        return _labeled("task", self.tasks, label)

    def method(self, label: str) -> Method:
        """Return the method of a label.

        Raises:
            ZeromeanError: The study has no such method.
        """
        return _labeled("method", self.methods, label)

    def optimizer(self, label: str) -> Optimizer:
        """Return the optimizer of a label.

        Raises:
            ZeromeanError: The study has no such optimizer.
        """
        return _labeled("optimizer", self.optimizers, label)

    def distinct_methods(self, optimizer: str) -> dict[str, str]:
        """Map each method's label to the first method that is equivalent with an optimizer.

        Only methods that map to themselves are trained.

        Args:
            optimizer: Label of the optimizer.

        Raises:
            ZeromeanError: The study has no such optimizer.

        Example:
            >>> Study(methods=("plain", "gc", "gc-update")).distinct_methods("sgd")
            {'plain': 'plain', 'gc': 'gc', 'gc-update': 'gc'}
        """
        chosen = self.optimizer(optimizer)
        return {
            one.label: next(other.label for other in self.methods if equivalent(one, other, chosen))
            for one in self.methods
        }

    def trained_methods(self, optimizer: str) -> tuple[str, ...]:
        """Return the labels of the methods that are trained with an optimizer."""
        return tuple(dict.fromkeys(self.distinct_methods(optimizer).values()))

    def epochs(self, key: Key) -> int:
        """Return the number of epochs of a run, or of a trial of the tuning."""
        if key.trial != FINAL and self.tuning is not None and self.tuning.epochs is not None:
            return self.tuning.epochs
        return self.task(key.task).epochs

    def command(self, out: Path) -> str:
        """Return the command that repeats the study from the file in its folder."""
        return shlex.join(["zeromean", "study", str(out / "study.toml"), "--out", str(out)])


def _labeled(kind: str, parts: tuple[_Part, ...], label: str) -> _Part:
    by_label = {one.label: one for one in parts}
    check_name(kind, label, by_label)
    return by_label[label]


_OF_TABLE: dict[str, Callable[[Any, str], Any]] = {
    "tasks": make_task, "methods": partial(build, Method), "optimizers": partial(build, Optimizer),
}  # fmt: skip
_OF_NAME = {"methods": presets.method, "optimizers": presets.optimizer}
# What to do about two parts with the same label.
_SAME_LABEL = {
    "tasks": "Drop one, or put it in a study of its own",
    "methods": "Give one of them another label",
    "optimizers": "Give one of them another label",
}


def _part(kind: str, value: Any, place: str) -> Any:
    """Return the task, method or optimizer that a table or a short name describes."""
    if isinstance(value, dict):
        return _OF_TABLE[kind](value, place)
    if isinstance(value, str) and kind in _OF_NAME:
        return _OF_NAME[kind](value)
    if isinstance(value, Spec):
        return value
    allowed = "a short name or a table" if kind in _OF_NAME else "a table"
    raise SettingError(
        kind, f"{place} is {value!r}, but it has to be {allowed}", f"Correct {place}"
    )

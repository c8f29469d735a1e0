"""What a study is asked to do: tasks x methods x optimizers x seeds, checked when declared."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from zeromean.study.run import FINAL, Key
from zeromean.study.settings import (
    LARGEST_FLOAT32,
    SettingError,
    blaming,
    check_at_least,
    check_at_most,
    check_name,
    check_unlike,
)
from zeromean.study.task import Task
from zeromean.study.tuning import Tuning

if TYPE_CHECKING:
    from zeromean.study.optimizers import OptimizerChoice
    from zeromean.study.results import Results
    from zeromean.study.watchers.progress import Watcher

# Fields whose flag has another name.
FLAGS = {"function": "task"}
# More than anybody trains, and few enough to be listed.
MOST_SEEDS = 100_000
# More than any machine has; torch counts them in 32 bits.
MOST_THREADS = 1024
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Study:
    """Every method on every task with every optimizer and seed, each from the same start.

    Args:
        tasks: What is learned; no two alike.
        methods: Two or more, ``plain`` among them, which the others are compared with; parts are
            joined by ``+``, as in ``cwn+gc``.
        optimizers: One or more of ``sgd``, ``sgdw``, ``adam``, ``adamw``, ``adagrad`` and
            ``rmsprop``, with settings joined by ``+``, as in ``sgd+lr=0.1+decay=0.001``.
        seeds: How many; seeds 0, 1, ... are used, each for every method.
        lr: Peak learning rate for all; None takes the one in the optimizer's name, or else its
            customary one for the model.
        tuning: How each method finds its own learning rate instead; None tunes nothing.
        precision: Of the networks' computations; weights are float32 in any case.
        device: As torch names it, such as ``cpu`` or ``cuda:0``.
        threads: CPU threads of a run; None shares torch's usual number among the processes.
        note: What whoever sees its results has to know, such as that training was shortened: said
            at the head of all that is printed and written of them.

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
    tuning: Tuning | None = None
    precision: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        for name in ("tasks", "methods", "optimizers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists will do too
        self._check_optimizers()
        check_unlike("tasks", [task.label for task in self.tasks])
        self._check_methods()
        check_at_least("seeds", self.seeds, 1)
        check_at_most("seeds", self.seeds, MOST_SEEDS)
        check_name("precision", self.precision, PRECISIONS)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)
            check_at_most("threads", self.threads, MOST_THREADS)

    def _check_optimizers(self) -> None:
        from zeromean.study.optimizers import OptimizerChoice

        with blaming("optimizers"):
            choices = [OptimizerChoice.parse(name) for name in self.optimizers]
        check_unlike("optimizers", self.optimizers)
        for one, other in itertools.combinations(choices, 2):
            if one.means == other.means:
                raise SettingError(
                    "optimizers",
                    f"{one.name} and {other.name}, which are the same",
                    "each optimizer once",
                    "drop one",
                )
        self._check_rates(choices)

    def _check_rates(self, choices: Iterable[OptimizerChoice]) -> None:
        """Of learning rates and decays, that each is told once, and where it has to be."""
        if self.lr is not None:
            object.__setattr__(self, "lr", float(self.lr))
        if self.lr is not None and not 0 < self.lr <= LARGEST_FLOAT32:
            raise SettingError(
                "lr", f"lr = {self.lr}", "a positive float32", "pass one, or none for a default"
            )
        if self.lr is not None and self.tuning is not None:
            raise SettingError("lr", f"lr = {self.lr} and tuning", "one of them", "drop lr")
        rate = "rates to tune" if self.tuning is not None else f"lr = {self.lr}"
        decays = self.tuning is not None and bool(self.tuning.weight_decays)
        own = [task.function for task in self.tasks if task.function is not None]
        for one in choices:
            twice = None
            if one.lr is not None and not (self.lr is None and self.tuning is None):
                twice = rate
            elif one.decay is not None and decays:
                twice = "weight_decays to tune"
            if twice is not None:
                raise SettingError(
                    "optimizers",
                    f"optimizer {one.name} with {twice}",
                    "one place that says it",
                    "leave one of them out",
                )
            if own and one.lr is None and self.lr is None and self.tuning is None:
                raise SettingError(
                    "lr",
                    f"task {own[0]} without a learning rate",
                    f"lr, tuning, or {one.name}+lr=NUMBER",
                    "pass one",
                )

    def _check_methods(self) -> None:
        from zeromean.study.methods import BASELINE, Method

        with blaming("methods"):
            methods = [Method.parse(name) for name in self.methods]
        check_unlike("methods", self.methods)
        for one, other in itertools.combinations(methods, 2):
            if one.describe() == other.describe():
                raise SettingError(
                    "methods", f"{one.name} and {other.name}", "each method once", "drop one"
                )
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

    def run(
        self,
        out: Path | str,
        *,
        jobs: int = 1,
        ray: str | None = None,
        shard: bool = False,
        watcher: Watcher | None = None,
        command: str | None = None,
    ) -> Results:
        """Train what ``out`` does not hold yet, and keep each run there once it ended.

        Args:
            out: Folder of the study. One that holds this very study is gone on with, at the last
                epoch; the results are those of a study that was never interrupted. One that was
                finished with fewer seeds, and not tuned, gets those that it lacks; what has no runs
                yet of the seeds above these goes on with fewer.
            jobs: Processes that train side by side. With more than one, a script has to call this
                under ``if __name__ == "__main__":``, because each of them imports it.
            ray: HOST:PORT of a Ray cluster that trains the runs instead; see
                ``zeromean.study.engine.cluster``.
            shard: Of several processes that torchrun started: whether each has a shard of a run's
                weights (FSDP2) rather than a copy (DDP).
            watcher: Told of epochs and runs as they end.
            command: What the report says has made it; None for a command that repeats the study.

        Returns:
            All runs. ``zeromean.study.report.write`` makes files of them.

        Raises:
            ZeromeanError: The data, the device or the folder cannot be used or do not fit the
                settings, or the folder holds another study; all but a full disk or memory show
                before any training.
        """
        from zeromean.study.engine.conduct import conduct

        return conduct(
            self, Path(out), jobs=jobs, ray=ray, shard=shard, watcher=watcher, command=command
        )

    @property
    def needs_file(self) -> bool:
        """Whether it is more than the flags of a command can tell."""
        return len(self.tasks) > 1 or self.tuning is not None or self.note is not None

    def epochs(self, key: Key) -> int:
        """Of a run, which may be a trial."""
        if key.trial != FINAL and self.tuning is not None and self.tuning.epochs is not None:
            return self.tuning.epochs
        return self.task(key.task).epochs

    def command(self, out: Path) -> str:
        """The command that repeats this study, every setting spelled out.

        A study that flags cannot tell is repeated from the file that its folder keeps.
        """
        if self.needs_file:
            return shlex.join(["zeromean", "study", str(out / "study.toml"), "--out", str(out)])
        (task,) = self.tasks
        options = {
            **{
                one.name: getattr(task, one.name)
                for one in fields(task)
                if getattr(task, one.name) != getattr(Task, one.name)
                or one.name in ("data", "model", "epochs", "batch_size")
            },
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
            if value is not None and (task.function is None or name not in ("data", "model"))
            for word in (
                f"--{FLAGS.get(name, name).replace('_', '-')}",
                *([] if value is True else [str(value)]),
            )
        ]
        return shlex.join(["zeromean", "compare", *words])

"""What a study is asked to do: tasks x methods x optimizers x seeds, checked when declared."""

from __future__ import annotations

import itertools
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeromean.errors import ZeromeanError
from zeromean.study.run import FINAL, Key

if TYPE_CHECKING:
    from zeromean.study.optimizers import OptimizerChoice
    from zeromean.study.results import Results
    from zeromean.study.watchers.progress import Watcher

# The names of choices live in tables beside their code, which loads torch; they are imported in
# the checks below, so that `zeromean --help` stays quick.

LARGEST_FLOAT32 = 3.4e38
# Of an image, in pixels: a coloured one takes 200 MB, as bytes.
LARGEST_SIDE = 8192
# Fields whose flag has another name.
FLAGS = {"function": "task"}
PRECISIONS = ("float32", "bfloat16")
# Fields that only a task of images has.
OF_IMAGES = ("augment", "prepare", "grey", "resize", "crop", "test_per_class", "split")
SPLITS = ("fixed", "seed")
SEARCHES = ("grid", "optuna")


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
        data: ``digits``, ``idx:DIR``, ``npz:FILE``, ``cifar:DIR``, ``svhn:DIR``,
            ``imagefolder:DIR`` (or a tar archive), ``miniimagenet:DIR``, ``hf:NAME`` or ``hf:DIR``;
            or ``text``, which Python carries, or ``text:FILE``.
        model: For images a key of ``zeromean.study.networks.build.NETWORKS``, such as ``cnn``
            or ``resnet20``, or ``timm:NAME``; for text ``lstm`` or ``transformer``.
        function: ``module:function`` of a task of one's own, instead of data and model; see
            ``zeromean.study.tasks.user``.
        epochs: Passes over the training examples.
        batch_size: Examples a step.
        train_size: How many training examples are kept, chosen at random within each class; None
            for all.
        imbalance: How many times more training examples the first class has than the last.
        augment: ``none``; for images also ``crop-flip``, which shifts and mirrors them at random,
            ``affine``, which also turns and zooms them, or ``resized-crop-flip``, which cuts
            rectangles of any size out of them, scales these to ``crop`` and mirrors them.
        prepare: What networks see of images, by the training images alone: ``channel`` standardizes
            each channel, ``pixel`` each pixel; ``zca`` whitens after global contrast
            normalization.
        grey: Whether coloured images are made grey first.
        resize: Height and width in pixels that image files are scaled to, whatever their
            proportions; None leaves them as they are.
        crop: Height and width of the middle that is kept of them then; None keeps all. With
            ``resized-crop-flip`` all is kept, of any images: it trains on crops of that size,
            and the middle is what is scored.
        test_per_class: How many images of each class are held out for the test, of data that
            comes without a test set; None for a share.
        split: ``fixed``, or ``seed`` for a test set of its own for each seed, of such data.
        schedule: How the learning rate goes from its peak: ``cosine`` to 0, ``constant``,
            ``every=60`` and ``drops=50,80`` (a tenth from then on, in epochs), ``halve=2000`` (in
            steps), or ``exponential=0.01`` (to that share of itself, a step each two epochs).

    Raises:
        ZeromeanError: A name is unknown or a number out of range.

    Example:
        >>> Task(model="mlp", epochs=3).label
        'digits/mlp'
    """

    data: str = "digits"
    model: str = "cnn"
    function: str | None = None
    epochs: int = 12
    batch_size: int = 64
    train_size: int | None = None
    imbalance: float = 1.0
    augment: str = "none"
    prepare: str = "channel"
    grey: bool = False
    resize: int | None = None
    crop: int | None = None
    test_per_class: int | None = None
    split: str = "fixed"
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        from zeromean.study.data.text import is_text
        from zeromean.study.networks.build import NETWORKS, OF_TIMM, listed
        from zeromean.study.networks.text import TEXT_NETWORKS
        from zeromean.study.schedules import Schedule
        from zeromean.study.tasks.augment import AUGMENTATIONS
        from zeromean.study.tasks.preparation import PREPARATIONS

        images = [name for name in OF_IMAGES if getattr(self, name) != getattr(Task, name)]
        own = (self.data, self.model) != (Task.data, Task.model) or images
        if self.function is not None and own:
            raise SettingError(
                "function",
                f"a task function {self.function} with"
                f" {', '.join(['data', 'model', *OF_IMAGES[:-1]])} or {OF_IMAGES[-1]}",
                "a function, which brings its own",
                "leave the others out",
            )
        networks = (*NETWORKS, OF_TIMM)
        _check_name("model", listed(self.model), (*networks, *TEXT_NETWORKS))
        _check_name("augment", self.augment, AUGMENTATIONS)
        _check_name("prepare", self.prepare, PREPARATIONS)
        _check_name("split", self.split, SPLITS)
        if is_text(self.data) != (self.model in TEXT_NETWORKS):
            fitting = ", ".join(TEXT_NETWORKS if is_text(self.data) else networks)
            raise SettingError(
                "model", f"model {self.model} for {self.data}", fitting, "name one of these models"
            )
        if is_text(self.data) and images:
            name = images[0]
            raise SettingError(
                name, f"{name} {getattr(self, name)} for text", "images for that", "drop it"
            )
        with _blaming("schedule"):
            Schedule.parse(self.schedule)
        _check_at_least("epochs", self.epochs, 1)
        _check_at_least("batch_size", self.batch_size, 1)
        for name in ("train_size", "resize", "crop", "test_per_class"):
            if getattr(self, name) is not None:
                _check_at_least(name, getattr(self, name), 1)
        for name in ("resize", "crop"):
            if (getattr(self, name) or 0) > LARGEST_SIDE:
                raise SettingError(
                    name, f"{name} = {getattr(self, name)}", f"{LARGEST_SIDE} or less", "lower it"
                )
        if self.resize is not None and self.crop is not None and self.crop >= self.resize:
            raise SettingError(
                "crop",
                f"crop = {self.crop} with resize = {self.resize}",
                "a crop below the size",
                "lower it, or leave it out",
            )
        object.__setattr__(self, "imbalance", float(self.imbalance))
        if not 1 <= self.imbalance < math.inf:
            raise SettingError(
                "imbalance", f"imbalance = {self.imbalance}", "1 or more", "raise it"
            )

    @property
    def label(self) -> str:
        """What the task is called in tables and in the database: what is not as usual is told."""
        extras = [
            f"{name}={getattr(self, name)}"
            for name in ("train_size", "imbalance", *OF_IMAGES, "schedule")
            if getattr(self, name) != getattr(Task, name)
        ]
        return " ".join([self.function or f"{self.data}/{self.model}", *extras])

    @property
    def early_epoch(self) -> int:
        """A third of the way: where a head start shows that the end no longer tells."""
        return math.ceil(self.epochs / 3)


@dataclass(frozen=True)
class Tuning:
    """The budget that every method gets to find its learning rate.

    Args:
        rates: Learning rates that a grid tries, or between whose ends Optuna looks.
        weight_decays: The same for the weight decay; none keeps the optimizer's customary one.
        search: ``grid`` or ``optuna``.
        trials: Of Optuna's, for each method; a grid has its own number.
        seeds: Of a trial; seeds that the comparison does not use.
        epochs: Of a trial; None for those of the task.
        validation: The share of the training examples that the choice is made by, above 0, at
            most a half; no run is trained on it.

    Raises:
        ZeromeanError: A number is out of range, or an option has no effect.

    Example:
        >>> Tuning(rates=(0.01, 0.1)).trial_count
        2
    """

    rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = ()
    search: str = "grid"
    trials: int | None = None
    seeds: int = 1
    epochs: int | None = None
    validation: float = 0.2

    def __post_init__(self) -> None:
        for name in ("rates", "weight_decays"):
            values = tuple(float(one) for one in getattr(self, name))
            object.__setattr__(self, name, values)
            for one in values:
                if not 0 < one <= LARGEST_FLOAT32:
                    raise SettingError(
                        name, f"{name} with {one}", "positive float32 numbers", "mend it"
                    )
            if values or name == "rates":
                _check_unlike(name, values)
        _check_name("search", self.search, SEARCHES)
        if (self.search == "optuna") != (self.trials is not None):
            raise SettingError(
                "trials",
                f"search {self.search} with trials = {self.trials}",
                "a number of trials with optuna, none with a grid",
                "change one of them",
            )
        for name in ("trials", "seeds", "epochs"):
            if getattr(self, name) is not None:
                _check_at_least(name, getattr(self, name), 1)
        if self.search == "optuna" and len(self.rates) < 2:
            raise SettingError(
                "rates", "one rate for optuna", "the lowest and the highest", "add the other"
            )
        if not 0 < self.validation <= 0.5:
            raise SettingError(
                "validation", f"validation = {self.validation}", "above 0, at most 0.5", "change it"
            )

    @property
    def trial_count(self) -> int:
        """How many trials each method gets."""
        return self.trials or len(self.rates) * max(1, len(self.weight_decays))


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
        _check_unlike("tasks", [task.label for task in self.tasks])
        self._check_methods()
        _check_at_least("seeds", self.seeds, 1)
        _check_name("precision", self.precision, PRECISIONS)
        if self.threads is not None:
            _check_at_least("threads", self.threads, 1)

    def _check_optimizers(self) -> None:
        from zeromean.study.optimizers import OptimizerChoice

        with _blaming("optimizers"):
            choices = [OptimizerChoice.parse(name) for name in self.optimizers]
        _check_unlike("optimizers", self.optimizers)
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

        with _blaming("methods"):
            methods = [Method.parse(name) for name in self.methods]
        _check_unlike("methods", self.methods)
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
    ) -> Results:
        """Train what ``out`` does not hold yet, and keep each run there once it ended.

        Args:
            out: Folder of the study. One that holds this very study is gone on with, at the last
                epoch; the results are those of a study that was never interrupted.
            jobs: Processes that train side by side.
            ray: HOST:PORT of a Ray cluster that trains the runs instead; see
                ``zeromean.study.engine.cluster``.
            shard: Of several processes that torchrun started: whether each has a shard of a run's
                weights (FSDP2) rather than a copy (DDP).
            watcher: Told of epochs and runs as they end.

        Returns:
            All runs. ``zeromean.study.report.write`` makes files of them.

        Raises:
            ZeromeanError: The data, the device or the folder cannot be used or do not fit the
                settings, or the folder holds another study; all but a full disk or memory show
                before any training.
        """
        from zeromean.study.engine.conduct import conduct

        return conduct(self, Path(out), jobs=jobs, ray=ray, shard=shard, watcher=watcher)

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


@contextmanager
def _blaming(setting: str) -> Iterator[None]:
    """Around what reads a setting: its errors are that setting's."""
    try:
        yield
    except ZeromeanError as error:
        raise SettingError(setting, error.got, error.wanted, error.fix) from error


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
            f"{name} {', '.join(map(str, counts))} with {repeated[0]} repeated",
            f"each {name[:-1]} once",
            f"name {repeated[0]} once",
        )

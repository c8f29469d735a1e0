"""What a comparison is asked to do, checked before anything is read or trained."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zeromean.errors import ZeromeanError

# The names of choices live in tables beside their code, which loads torch; they are imported in
# the checks below, so that `zeromean --help` stays quick.


@dataclass(frozen=True)
class Settings:
    """The settings of one comparison.

    Args:
        data: ``digits``, ``idx:DIR``, ``npz:FILE`` or ``imagefolder:DIR`` (or a tar archive).
        model: ``mlp``, ``cnn``, ``resnet20`` or ``resnet18``.
        optimizer: ``sgd``, ``adam``, ``adamw`` or ``adagrad``.
        methods: Two or more of ``plain``, ``gc``, ``gc-conv``, ``gc-update``; ``plain`` among them.
        lr: Peak learning rate; None takes the optimizer's customary one for the model.
        epochs: Passes over the training images, per run.
        batch_size: Images a step.
        seeds: How many; seeds 0, 1, ... are used, each for every method.
        out: Folder for the results; it must not hold a study already.
        device: As torch names it, such as ``cpu`` or ``cuda:0``.

    Raises:
        ZeromeanError: A name is unknown or repeated, a number out of range, or ``out`` is taken.

    Example:
        >>> Settings(epochs=3).learning_rate
        0.05
    """

    data: str = "digits"
    model: str = "cnn"
    optimizer: str = "sgd"
    methods: tuple[str, ...] = ("plain", "gc")
    lr: float | None = None
    epochs: int = 12
    batch_size: int = 64
    seeds: int = 5
    out: Path = Path("zeromean-compare")
    device: str = "cpu"

    def __post_init__(self) -> None:
        from zeromean.study.methods import METHODS
        from zeromean.study.networks.build import NETWORKS
        from zeromean.study.optimizers import OPTIMIZERS

        _check_name("model", self.model, NETWORKS)
        _check_name("optimizer", self.optimizer, OPTIMIZERS)
        for method in self.methods:
            _check_name("method", method, METHODS)
        self._check_methods()
        for option, number in (
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            ("--seeds", self.seeds),
        ):
            if number < 1:
                raise ZeromeanError(f"{option} {number}", "1 or more", f"raise {option}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise ZeromeanError(
                f"--lr {self.lr}", "a positive number", "pass one, or leave --lr out for a default"
            )
        self._check_out()

    def _check_methods(self) -> None:
        from zeromean.study.methods import BASELINE

        given = f"--methods {','.join(self.methods)}"
        repeated = [name for name, count in Counter(self.methods).items() if count > 1]
        if repeated:
            raise ZeromeanError(given, "each method once", f"name {repeated[0]} once")
        if BASELINE not in self.methods:
            raise ZeromeanError(given, f"{BASELINE} among them, to compare with", f"add {BASELINE}")
        if len(self.methods) == 1:
            raise ZeromeanError(given, f"a method besides {BASELINE}", "add one, such as gc")
        if self.model == "mlp" and "gc-conv" in self.methods:
            raise ZeromeanError(
                f"{given} with --model mlp, which has no convolution",
                "a model with convolutions for gc-conv",
                "use --model cnn, or gc instead of gc-conv",
            )

    def _check_out(self) -> None:
        try:
            taken, file = self.database.exists(), self.out.exists() and not self.out.is_dir()
        except OSError as error:
            raise ZeromeanError(
                f"--out {self.out}, which cannot be used ({error})",
                "a folder",
                "pass another --out",
            ) from error
        if file:
            raise ZeromeanError(
                f"--out {self.out}, which is a file", "a folder", "pass another --out"
            )
        if taken:
            raise ZeromeanError(
                f"--out {self.out}, which already holds a study",
                "a folder without study.sqlite",
                "pass another --out, or remove the old study",
            )

    @property
    def learning_rate(self) -> float:
        from zeromean.study.optimizers import OPTIMIZERS

        if self.lr is not None:
            return self.lr
        return OPTIMIZERS[self.optimizer].learning_rates[self.model]

    @property
    def database(self) -> Path:
        return self.out / "study.sqlite"

    @property
    def early_epoch(self) -> int:
        """A third of the way: where a head start shows that the end no longer tells."""
        return math.ceil(self.epochs / 3)

    def command(self) -> str:
        """The command that repeats this comparison, every setting spelled out."""
        options = {
            "--data": self.data,
            "--model": self.model,
            "--optimizer": self.optimizer,
            "--methods": ",".join(self.methods),
            "--lr": f"{self.learning_rate:g}",
            "--epochs": str(self.epochs),
            "--batch-size": str(self.batch_size),
            "--seeds": str(self.seeds),
            "--out": str(self.out),
            "--device": self.device,
        }
        words = [word for option in options.items() for word in option]
        return shlex.join(["zeromean", "compare", *words])


def _check_name(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ZeromeanError(f"{what} {name!r}", ", ".join(known), f"name one of these {what}s")

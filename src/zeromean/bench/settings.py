"""What a benchmark is asked to measure, checked before anything is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from zeromean.bench.tensors import TENSORS
from zeromean.bench.work import OPTIMIZERS
from zeromean.errors import ZeromeanError


@dataclass(frozen=True)
class Settings:
    """The settings of one benchmark.

    Args:
        tensors: Any of ``resnet50``, ``gpt2``, ``tiny``: whose shapes are stepped.
        optimizers: Any of ``sgd``, ``adamw``.
        repeats: How often each contestant is timed, each time beside torch's own step.
        threads: Of torch, of the native kernels and, where it is not running yet, of jax.
        out: Folder for the results; it must not hold a benchmark already.
        device: As torch names it, such as ``cpu`` or ``cuda:0``.
        training: Whether whole training steps of ResNet-18 are measured too, which takes minutes.

    Raises:
        ZeromeanError: A name is unknown or repeated, a number out of range, ``out`` is taken, or
            torch cannot use the device.

    Example:
        >>> Settings(tensors=("tiny",), repeats=3, threads=1).command()
        'zeromean bench --tensors tiny --optimizer sgd,adamw --repeats 3 --threads 1 --device cpu'
    """

    tensors: tuple[str, ...] = ("resnet50", "tiny")
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    repeats: int = 25
    threads: int = 1
    out: Path = Path("zeromean-bench")
    device: str = "cpu"
    training: bool = False

    def __post_init__(self) -> None:
        _check_names("--tensors", self.tensors, TENSORS)
        _check_names("--optimizer", self.optimizers, OPTIMIZERS)
        for option, number in (("--repeats", self.repeats), ("--threads", self.threads)):
            if number < 1:
                raise ZeromeanError(f"{option} {number}", "1 or more", f"raise {option}")
        try:
            torch.zeros(1, device=self.device).item()
        # Torch raises AssertionError where a build lacks a backend.
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ZeromeanError(
                f"--device {self.device}, which torch cannot use here",
                "a device of this machine",
                "use --device cpu",
            ) from error
        self._check_out()

    def _check_out(self) -> None:
        try:
            file = self.out.exists() and not self.out.is_dir()
            taken = [path for path in (self.table, self.picture) if path.exists()]
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
                f"--out {self.out}, which already holds {taken[0].name}",
                "a folder without an earlier benchmark",
                "pass another --out, or remove the old files",
            )

    @property
    def table(self) -> Path:
        return self.out / "bench.md"

    @property
    def picture(self) -> Path:
        return self.out / "bench.png"

    def command(self) -> str:
        """The command that measures the same, but for where it writes."""
        options = {
            "--tensors": ",".join(self.tensors),
            "--optimizer": ",".join(self.optimizers),
            "--repeats": str(self.repeats),
            "--threads": str(self.threads),
            "--device": self.device,
        }
        words = [word for option in options.items() for word in option]
        return shlex.join(["zeromean", "bench", *words, *(["--training"] * self.training)])


def _check_names(option: str, names: tuple[str, ...], known: Iterable[str]) -> None:
    given = f"{option} {','.join(names)}"
    choices = ", ".join(known)
    for name, count in Counter(names).items():
        if name not in choices.split(", "):
            raise ZeromeanError(given, f"any of {choices}", f"leave {name!r} out")
        if count > 1:
            raise ZeromeanError(given, "each name once", f"name {name} once")

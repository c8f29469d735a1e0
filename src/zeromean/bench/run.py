"""Run a benchmark: time every baseline against the first, and measure memory."""

from __future__ import annotations

import os
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.nn import functional as F

from zeromean import kernels
from zeromean.bench import bandwidth
from zeromean.bench.baselines import (
    BASELINES,
    OPTIMIZERS,
    ZEROMEAN,
    Baseline,
    Hyper,
    Make,
    Unavailable,
    Work,
)
from zeromean.bench.paired_timing import CLOCKS, Step, Times, time_in_turn
from zeromean.bench.retained_memory import retained_bytes
from zeromean.bench.tensors import TENSORS
from zeromean.errors import ZeromeanError
from zeromean.memory import enough_memory
from zeromean.study.engine import environment
from zeromean.study.engine.executors import with_threads
from zeromean.study.networks.build import build
from zeromean.study.spec.study import MAX_THREADS
from zeromean.study.tasks.load import check_device

MIN_PARAMETERS_FOR_BANDWIDTH = 1_000_000  # fewer parameters fit into the caches
NETWORK, BATCH, IMAGE_SIDE, CLASSES = "resnet18", 128, 32, 10  # of the training steps


@dataclass(frozen=True)
class Settings:
    """The settings of a benchmark.

    Args:
        tensors: Names of sets of tensors, out of "resnet50", "gpt2" and "tiny".
        optimizers: Names of optimizers, out of "sgd" and "adamw".
        repeats: Number of rounds in which each baseline is timed, in turn with the first.
        threads: Number of CPU threads.
        out: Folder for the results, which must not contain an earlier benchmark.
        device: Device in torch's notation, such as "cpu" or "cuda:0".
        clock: Clock, "wall" (default), or "cpu" for the processor time of this process.
        training: Whether to time whole training steps of ResNet-18 too, which takes minutes.

    Raises:
        ZeromeanError: A name is missing, unknown or repeated, a number is too small, ``out`` is in
            use, or torch cannot use the device.

    Example:
        >>> Settings(tensors=("tiny",), repeats=3).command()
        'zeromean bench --tensors tiny --optimizer sgd,adamw --repeats 3 --threads 1 --device cpu'
    """

    tensors: tuple[str, ...] = ("resnet50", "tiny")
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    repeats: int = 25
    threads: int = 1
    out: Path = Path("zeromean-bench")
    device: str = "cpu"
    clock: str = "wall"
    training: bool = False

    def __post_init__(self) -> None:
        _check_names("--tensors", self.tensors, TENSORS)
        _check_names("--optimizer", self.optimizers, OPTIMIZERS)
        _check_names("--clock", (self.clock,), CLOCKS)
        for option, number in (("--repeats", self.repeats), ("--threads", self.threads)):
            if number < 1:
                raise ZeromeanError(f"{option} is {number}; at least 1 is needed", "Raise it")
        if self.threads > MAX_THREADS:
            raise ZeromeanError(
                f"--threads is {self.threads}; at most {MAX_THREADS} are allowed", "Lower it"
            )
        check_device(self.device)
        try:
            is_file = self.out.exists() and not self.out.is_dir()
            existing = [path.name for path in (self.table, self.figure) if path.exists()]
        except OSError as error:
            raise ZeromeanError(
                f"--out {self.out} cannot be used: {error}", "Pass another folder"
            ) from error
        if is_file:
            raise ZeromeanError(f"--out {self.out} is a file", "Pass a folder")
        if existing:
            raise ZeromeanError(
                f"--out {self.out} already contains {existing[0]}",
                "Pass another folder, or remove the old files",
            )

    @property
    def table(self) -> Path:
        """The file of the tables."""
        return self.out / "bench.md"

    @property
    def figure(self) -> Path:
        """The file of the figure."""
        return self.out / "bench.png"

    def command(self) -> str:
        """Return the command that repeats the benchmark, without ``--out``."""
        words = ["zeromean", "bench"]
        words += ["--tensors", ",".join(self.tensors), "--optimizer", ",".join(self.optimizers)]
        words += ["--repeats", str(self.repeats), "--threads", str(self.threads)]
        words += ["--device", self.device]
        words += ["--clock", self.clock] * (self.clock != "wall")
        return shlex.join([*words, *["--training"] * self.training])


def _check_names(option: str, names: tuple[str, ...], known: Iterable[str]) -> None:
    choices = list(known)
    if not names:
        raise ZeromeanError(f"{option} has no name", f"Use any of {', '.join(choices)}")
    for name, count in Counter(names).items():
        if name not in choices:
            raise ZeromeanError(
                f"{option} does not know {name!r}", f"Use any of {', '.join(choices)}"
            )
        if count > 1:
            raise ZeromeanError(f"{option} contains {name} {count} times", f"Pass {name} once")


@dataclass(frozen=True)
class Comparison:
    """The times of all baselines for one set of tensors and one optimizer.

    Args:
        tensors: Key of ``TENSORS``.
        optimizer: Key of ``OPTIMIZERS``.
        base: The baseline that the others are compared with.
        results: For every other baseline, its times together with those of the base, or the reason
            why it is unavailable.
    """

    tensors: str
    optimizer: str
    base: Baseline
    results: dict[Baseline, Times | str]

    def ratio(self, baseline: Baseline) -> float | None:
        """Return the time relative to the base, or None if the baseline is unavailable."""
        if baseline is self.base:
            return 1.0
        times = self.results[baseline]
        return None if isinstance(times, str) else times.ratio(baseline.name, self.base.name)

    def ratio_to_plain(self, baseline: Baseline) -> float | None:
        """Return the time relative to the same implementation without centering, or None."""
        for other in (self.base, *self.results):
            if other.name == baseline.plain:
                own, plain = self.ratio(baseline), self.ratio(other)
                return own / plain if own is not None and plain is not None else None
        return None

    def base_seconds(self) -> float | None:
        """Return the median seconds of the base, or None if no other baseline is available."""
        rounds = [
            seconds
            for times in self.results.values()
            if not isinstance(times, str)
            for seconds in times.seconds[self.base.name]
        ]
        return statistics.median(rounds) if rounds else None


@dataclass(frozen=True)
class Benchmark:
    """All results of a benchmark.

    Args:
        settings: The settings.
        environment: Versions and machine.
        comparisons: One per set of tensors and optimizer.
        bandwidth: Memory bandwidth of ``zeromean.optim``, by tensors and optimizer.
        retained: Bytes retained beyond those of the base, by baseline and type.
        training: Times of whole training steps, by optimizer and baseline; first those of the
            base without GC.
    """

    settings: Settings
    environment: dict[str, str]
    comparisons: list[Comparison] = field(default_factory=list)
    bandwidth: dict[tuple[str, str], bandwidth.Bandwidth] = field(default_factory=dict)
    retained: dict[tuple[Baseline, torch.dtype], int] = field(default_factory=dict)
    training: dict[tuple[str, Baseline], Times] = field(default_factory=dict)


def run(settings: Settings, on_progress: Callable[[str], None] = lambda text: None) -> Benchmark:
    """Run a benchmark.

    Args:
        settings: The settings.
        on_progress: Function that receives a short text before each measurement.

    Raises:
        ZeromeanError: The tensors or a training step do not fit into memory.

    Example:
        >>> settings = Settings(tensors=("tiny",), optimizers=("sgd",), repeats=1)
        >>> [comparison.base.name for comparison in run(settings).comparisons]
        ['torch fused']
    """
    device = torch.device(settings.device)
    results = Benchmark(settings, _environment(device))
    with with_threads(settings.threads):
        for tensors in settings.tensors:
            with _enough_memory(device, f"{tensors} twelve times", f"Omit {tensors}"):
                for optimizer in settings.optimizers:
                    _compare(results, tensors, optimizer, on_progress)
        if settings.training:
            with _enough_memory(device, "a training step", "Omit --training"):
                for optimizer in settings.optimizers:
                    _train(results, optimizer, device, on_progress)
    return results


def _enough_memory(device: torch.device, content: str, fix: str) -> AbstractContextManager[None]:
    return enough_memory(ZeromeanError(f"The memory of {device} cannot hold {content}", fix))


def _compare(
    results: Benchmark, tensors: str, optimizer: str, on_progress: Callable[[str], None]
) -> None:
    settings = results.settings
    hyper, tensor_set = OPTIMIZERS[optimizer], TENSORS[tensors]
    work = Work(hyper, tensor_set.shapes, torch.device(settings.device))
    title = f"{tensor_set.title}, {hyper.name}"
    base = _base(work)
    times: dict[Baseline, Times | str] = {}
    for baseline in BASELINES:
        if baseline is base:
            continue
        on_progress(f"{title}: {baseline.name}")
        times[baseline] = _time_with_base(base, baseline, settings, work)
    results.comparisons.append(Comparison(tensors, optimizer, base, times))
    if tensor_set.parameters() > MIN_PARAMETERS_FOR_BANDWIDTH:
        on_progress(f"{title}: memory bandwidth")
        measured = bandwidth.measure(ZEROMEAN[0], work, lambda steps: _time(steps, settings, work))
        results.bandwidth[tensors, optimizer] = measured
    if not results.retained and optimizer == settings.optimizers[-1]:
        on_progress(f"{title}: retained memory")
        for dtype in (torch.float32, torch.bfloat16):
            typed = Work(hyper, work.shapes, work.device, dtype)
            plain = retained_bytes(base, typed)
            for baseline in ZEROMEAN:
                with suppress(Unavailable):
                    results.retained[baseline, dtype] = retained_bytes(baseline, typed) - plain


def _time_with_base(
    base: Baseline, baseline: Baseline, settings: Settings, work: Work
) -> Times | str:
    """Return the times of both, or why the baseline is unavailable; frees both afterwards."""
    try:
        other = baseline.start(work).step
    except Unavailable as reason:
        return str(reason)
    return _time({base.name: base.start(work).step, baseline.name: other}, settings, work)


def _time(steps: dict[str, Step], settings: Settings, work: Work) -> Times:
    clock = CLOCKS[settings.clock]
    return time_in_turn(steps, settings.repeats, clock=clock, synchronize=work.synchronize)


def _base(work: Work) -> Baseline:
    """Return the first baseline that is available."""
    small = Work(work.hyper, [(4, 3)], work.device)
    for baseline in BASELINES:
        try:
            baseline.start(small)
        except Unavailable:
            continue
        return baseline
    raise AssertionError("torch's default is available on every device")


def _train(
    results: Benchmark, optimizer: str, device: torch.device, on_progress: Callable[[str], None]
) -> None:
    work = Work(OPTIMIZERS[optimizer], [(4, 3)], device)
    base = _base(work)
    for baseline in ZEROMEAN:
        assert base.make is not None  # both are torch optimizers
        assert baseline.make is not None
        on_progress(f"training, {work.hyper.name}: {baseline.name}")
        try:
            other = training_step(baseline.make, work.hyper, device)
        except Unavailable:
            continue
        steps = {base.name: training_step(base.make, work.hyper, device), baseline.name: other}
        results.training[optimizer, baseline] = _time(steps, results.settings, work)


def training_step(make: Make, hyper: Hyper, device: torch.device) -> Step:
    """Return one training step of ResNet-18 on a fixed batch of random images."""
    model = build(NETWORK, channels=3, side=IMAGE_SIDE, classes=CLASSES, seed=0).to(device)
    optimizer = make(hyper, list(model.parameters()), model)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, IMAGE_SIDE, IMAGE_SIDE, generator=random).to(device)
    labels = torch.randint(CLASSES, (BATCH,), generator=random).to(device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _environment(device: torch.device) -> dict[str, str]:
    found = environment.describe(str(device)) | {"kernels": kernels.backend(device)}
    for package in ("pytorch_optimizer", "optax", "jax"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if hasattr(os, "getloadavg"):
        found["load before"] = f"{os.getloadavg()[0]:.1f}"
    return found

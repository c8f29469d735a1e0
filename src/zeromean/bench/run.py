"""A whole benchmark: every contestant against torch's own step, and what else was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch

from zeromean import kernels
from zeromean.bench import kept, traffic
from zeromean.bench.contestants import CONTESTANTS
from zeromean.bench.contestants.contestant import Absent, Contestant
from zeromean.bench.contestants.zeromeans_own import ZEROMEAN
from zeromean.bench.settings import Settings
from zeromean.bench.tensors import TENSORS
from zeromean.bench.timing import Duel, duel
from zeromean.bench.training import training_step
from zeromean.bench.work import OPTIMIZERS, Work
from zeromean.errors import ZeromeanError
from zeromean.study.engine import environment

IN_CACHE = 1_000_000  # numbers; a set of fewer tells nothing about memory


@dataclass(frozen=True)
class Result:
    """How one contestant did: its duel with the base, or why there was none."""

    contestant: Contestant
    outcome: Duel | str


@dataclass(frozen=True)
class Match:
    """All contestants at the same work.

    Args:
        tensors: Key of ``TENSORS``.
        optimizer: Key of ``OPTIMIZERS``.
        base: The contestant that all were compared with.
        results: The others', in their order.
    """

    tensors: str
    optimizer: str
    base: Contestant
    results: tuple[Result, ...]

    @property
    def base_seconds(self) -> float | None:
        """Median of the base's rounds, over all duels; None where there was none."""
        rounds = [
            seconds
            for result in self.results
            if isinstance(result.outcome, Duel)
            for seconds in result.outcome.base
        ]
        return sorted(rounds)[len(rounds) // 2] if rounds else None


@dataclass(frozen=True)
class Benchmark:
    """Everything that was measured.

    Args:
        settings: What was asked for.
        environment: Versions and machine.
        matches: One for each set of tensors and optimizer.
        traffic: (tensors, optimizer) -> memory traffic of ``zeromean.optim``.
        kept: (contestant, type) -> bytes that it keeps beyond torch's own.
        training: (optimizer, contestant) -> whole training steps against those without centering.
    """

    settings: Settings
    environment: dict[str, str]
    matches: list[Match] = field(default_factory=list)
    traffic: dict[tuple[str, str], traffic.Traffic] = field(default_factory=dict)
    kept: dict[tuple[Contestant, torch.dtype], int] = field(default_factory=dict)
    training: dict[tuple[str, Contestant], Duel] = field(default_factory=dict)


def run(settings: Settings, on_progress: Callable[[str], None] = lambda text: None) -> Benchmark:
    """Measure.

    Args:
        settings: What.
        on_progress: Is called with a few words before each measurement.

    Returns:
        All results. ``table.markdown`` and ``plot.draw`` show them.

    Raises:
        ZeromeanError: The tensors do not fit into memory.

    Example:
        >>> settings = Settings(tensors=("tiny",), optimizers=("sgd",), repeats=1)
        >>> [match.base.name for match in run(settings).matches]
        ['torch fused']
    """
    device = torch.device(settings.device)
    with _threads(settings.threads):
        results = Benchmark(settings, _environment(device))
        for tensors in settings.tensors:
            for optimizer in settings.optimizers:
                on_progress(f"{TENSORS[tensors].title}, {OPTIMIZERS[optimizer].name}")
                try:
                    _measure(results, tensors, optimizer, device, on_progress)
                except (torch.OutOfMemoryError, MemoryError) as error:
                    raise ZeromeanError(
                        f"--tensors {tensors} on {device}, more than its memory holds",
                        "tensors that fit into it six times over, twice",
                        "leave them out",
                    ) from error
        if settings.training:
            for optimizer in settings.optimizers:
                _train(results, optimizer, device, on_progress)
    return results


def _measure(
    results: Benchmark,
    tensors: str,
    optimizer: str,
    device: torch.device,
    on_progress: Callable[[str], None],
) -> None:
    repeats = results.settings.repeats
    work = Work(OPTIMIZERS[optimizer], TENSORS[tensors].shapes(), device)
    title = f"{TENSORS[tensors].title}, {work.hyper.name}"
    base = _base(work)
    outcomes = []
    for contestant in CONTESTANTS:
        if contestant is base:
            continue
        on_progress(f"{title}: {contestant.name}")
        outcomes.append(Result(contestant, _against(base, contestant, work, repeats)))
    results.matches.append(Match(tensors, optimizer, base, tuple(outcomes)))
    if TENSORS[tensors].count() > IN_CACHE:
        on_progress(f"{title}: memory traffic")
        results.traffic[tensors, optimizer] = traffic.measure(ZEROMEAN[0], work, repeats)
    if not results.kept and optimizer == results.settings.optimizers[-1]:
        on_progress(f"{title}: memory kept between steps")
        for dtype in (torch.float32, torch.bfloat16):
            for contestant in ZEROMEAN:
                typed = Work(work.hyper, work.shapes, device, dtype)
                results.kept[contestant, dtype] = kept.beyond(contestant, base, typed)


def _base(work: Work) -> Contestant:
    """The first contestant that runs here."""
    few = Work(work.hyper, [(4, 3)], work.device)
    for contestant in CONTESTANTS:
        try:
            contestant.start(few)
        except Absent:
            continue
        return contestant
    raise AssertionError("torch's for-loop runs everywhere")


def _against(base: Contestant, other: Contestant, work: Work, repeats: int) -> Duel | str:
    """Their duel; both start anew, so that no more than two are in memory."""
    try:
        running = other.start(work)
    except Absent as absent:
        return str(absent)
    return duel(base.start(work).step, running.step, repeats, work.device)


def _train(
    results: Benchmark, optimizer: str, device: torch.device, on_progress: Callable[[str], None]
) -> None:
    hyper = OPTIMIZERS[optimizer]
    base = _base(Work(hyper, [(4, 3)], device))
    for contestant in ZEROMEAN:
        on_progress(f"training, {hyper.name}: {contestant.name}")
        if base.make is None or contestant.make is None:
            continue
        plain, centered = (
            training_step(make, hyper, device) for make in (base.make, contestant.make)
        )
        results.training[optimizer, contestant] = duel(
            plain, centered, results.settings.repeats, device
        )


def _environment(device: torch.device) -> dict[str, str]:
    found = environment.describe(str(device)) | {"kernels": kernels.backend(device)}
    found |= {name: _version(name) for name in ("pytorch_optimizer", "optax", "jax")}
    if hasattr(os, "getloadavg"):
        found["load before"] = f"{os.getloadavg()[0]:.1f}"
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

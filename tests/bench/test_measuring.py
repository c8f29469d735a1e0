"""Timing, bandwidth and retained memory, with a fake clock and known optimizers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from zeromean import optim
from zeromean.bench import run
from zeromean.bench.bandwidth import Bandwidth
from zeromean.bench.baselines import (
    OPTIMIZERS,
    TORCH,
    ZEROMEAN,
    Baseline,
    Running,
    Unavailable,
    Work,
    drop_in,
    from_optimizer,
)
from zeromean.bench.paired_timing import Times, time_in_turn
from zeromean.bench.retained_memory import retained_bytes
from zeromean.bench.run import Settings, training_step
from zeromean.errors import ZeromeanError

CPU = torch.device("cpu")


class Clock:
    """A clock that only steps advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, seconds: float) -> None:
        self.log.append(name)
        self.now += seconds


def test_steps_alternate_and_the_order_reverses() -> None:
    clock = Clock()
    steps = {"a": partial(clock.step, "a", 1.0), "b": partial(clock.step, "b", 2.5)}
    times = time_in_turn(steps, 3, clock=clock)
    assert "".join(clock.log) == "aaabbbabbaab"
    assert times == Times({"a": (1.0, 1.0, 1.0), "b": (2.5, 2.5, 2.5)})
    assert (times.median("b"), times.ratio("b", "a")) == (2.5, 2.5)
    assert times.middle_half("b", "a") == (2.5, 2.5)


def test_slow_moment_cancels_in_the_ratio() -> None:
    clock = Clock()
    slowness = iter([1, 1, 1, 1, 1, 1, 1, 1, 50, 50])

    def step(seconds: float) -> None:
        clock.now += seconds * next(slowness)

    times = time_in_turn({"a": partial(step, 1.0), "b": partial(step, 3.0)}, 2, clock=clock)
    assert times.ratio("b", "a") == 3.0
    assert times.seconds["a"] == (1.0, 50.0)


def test_fast_step_is_repeated() -> None:
    clock = Clock()
    steps = {"a": partial(clock.step, "a", 0.002), "b": partial(clock.step, "b", 0.1)}
    times = time_in_turn(steps, 1, clock=clock)
    assert "".join(clock.log) == "aaa" + "aa" + "aaaa" + "bbb" + "aaaab"
    assert times.ratio("b", "a") == pytest.approx(50)


@pytest.mark.parametrize("begin", [0.0, 0.0155])
def test_step_is_repeated_for_many_ticks_of_a_coarse_clock(begin: float) -> None:
    now, tick = begin, 0.0156

    def clock() -> float:
        nonlocal now
        now += 1e-6
        return now // tick * tick

    def step() -> None:
        nonlocal now
        now += 3e-3

    times = time_in_turn({"s": step}, 5, clock=clock)
    assert times.seconds["s"] == pytest.approx([3e-3] * 5, rel=0.1)


def test_device_is_synchronized_around_each_measurement() -> None:
    clock = Clock()
    wait = partial(clock.step, "|", 1.0)
    step = partial(clock.step, "s", 1.0)
    times = time_in_turn({"s": step}, 1, clock=clock, synchronize=wait)
    assert "".join(clock.log) == "|ss||s||s|"
    assert times.seconds["s"] == (2.0,)  # the step and the wait behind it


def test_middle_half_is_between_the_quartiles() -> None:
    times = Times({"base": (1.0,) * 5, "other": (1.0, 2.0, 3.0, 4.0, 5.0)})
    assert times.middle_half("other", "base") == (2.0, 4.0)


def test_bandwidth_is_relative_to_a_copy() -> None:
    measured = Bandwidth(1000, 28, Times({"copy": (2e-6,), "step": (7e-6,)}))
    assert measured.of_step == pytest.approx(4e9)  # 28 kB in 7 us
    assert measured.share == pytest.approx(1)  # a copy moves 8 kB in 2 us


def work_of(dtype: torch.dtype) -> Work:
    return Work(OPTIMIZERS["adamw"], [(5, 3), (4, 2, 3, 3), (6,)], CPU, dtype)


@pytest.mark.parametrize("baseline", ZEROMEAN, ids=lambda one: one.name)
def test_only_half_precision_at_update_retains_memory(baseline: Baseline) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        work = work_of(dtype)
        residual = 4 * (5 + 4) if (dtype, baseline.centers) == (torch.bfloat16, "update") else 0
        assert retained_bytes(baseline, work) - retained_bytes(TORCH[0], work) == residual


class Hoarder(torch.optim.SGD):
    """Holds ten more numbers, at a given place."""

    def __init__(self, parameters: object, place: str) -> None:
        super().__init__(parameters)
        more = torch.zeros(10)
        if place == "attribute":
            self.more = {"list": [(more, more[:3])]}  # one storage, reached twice
        elif place == "closure":
            self.more = lambda: more or unassigned
        elif place == "default":
            self.more = lambda held=more, *, also=more: (held, also)
        else:
            self.register_step_post_hook(Keeper(more).hook)
        if place is None:
            unassigned = more


class Keeper:
    def __init__(self, more: torch.Tensor) -> None:
        self.more = more

    def hook(self, *args: object) -> None:
        """Do nothing."""


@pytest.mark.parametrize("place", ["attribute", "closure", "default", "hook"])
def test_retained_tensors_are_found_everywhere(place: str) -> None:
    hoarder = from_optimizer("hoarder", lambda hyper, ps, model: Hoarder(ps, place))
    work = Work(OPTIMIZERS["sgd"], [(5, 3)], CPU)
    assert retained_bytes(hoarder, work) == 40


def test_retained_memory_excludes_weights_and_gradients() -> None:
    work = Work(OPTIMIZERS["sgd"], [(5, 3), (7,)], CPU)
    assert retained_bytes(TORCH[0], work) == 4 * (15 + 7)  # momentum


@pytest.fixture
def _small_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "NETWORK", "mlp")
    monkeypatch.setattr(run, "BATCH", 4)


@pytest.mark.usefixtures("_small_training")
def test_training_step_trains_with_the_given_optimizer() -> None:
    made: list[tuple[torch.optim.Optimizer, nn.Module]] = []

    def make(hyper: object, parameters: object, model: nn.Module) -> torch.optim.Optimizer:
        made.append((drop_in("update", hyper, parameters, model), model))
        return made[0][0]

    step = training_step(make, OPTIMIZERS["adamw"], CPU)
    (optimizer, model) = made[0]
    assert isinstance(optimizer, optim.AdamW)
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
    before = linear.weight.detach().clone()
    step()
    assert not torch.equal(linear.weight, before)
    torch.testing.assert_close(linear.weight.mean(1), before.mean(1))


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "time_in_turn", partial(time_in_turn, min_seconds=0))


@pytest.mark.usefixtures("_small_training", "_fast")
def test_run_measures_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MIN_PARAMETERS_FOR_BANDWIDTH", 0)
    progress: list[str] = []
    settings = Settings(("tiny",), ("sgd", "adamw"), repeats=1, training=True, clock="cpu")
    threads = torch.get_num_threads()
    result = run.run(settings, progress.append)
    assert torch.get_num_threads() == threads
    assert [one.optimizer for one in result.comparisons] == ["sgd", "adamw"]
    for comparison in result.comparisons:
        assert comparison.base is TORCH[0]
        assert len(comparison.results) == len(run.BASELINES) - 1
        seconds = comparison.base_seconds()
        assert seconds is not None
        assert seconds > 0
    assert set(result.bandwidth) == {("tiny", "sgd"), ("tiny", "adamw")}
    assert {baseline for baseline, _ in result.retained} == set(ZEROMEAN)
    assert {baseline for _, baseline in result.training} == set(ZEROMEAN)
    assert result.environment["kernels"]
    assert "AdamW: zeromean.optim, at update" in " ".join(progress)


@pytest.mark.usefixtures("_fast")
def test_base_is_the_first_available_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(work: Work) -> None:
        raise Unavailable("not supported on mps")

    fused = replace(TORCH[0], start=unavailable)
    monkeypatch.setattr(run, "BASELINES", (fused, *TORCH[1:]))
    comparison = run.run(Settings(("tiny",), ("sgd",), repeats=1)).comparisons[0]
    assert comparison.base.name == "torch foreach"
    assert comparison.results[fused] == "not supported on mps"


@pytest.mark.usefixtures("_fast")
def test_at_most_two_baselines_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    counts = []

    class Held:
        def __call__(self) -> None:
            """Do nothing."""

    def start(work: Work) -> Running:
        step = Held()
        alive.add(step)
        counts.append(len(alive))
        return Running(step, list)

    monkeypatch.setattr(run, "retained_bytes", lambda *args: 0)
    monkeypatch.setattr(run, "BASELINES", [Baseline(name, None, start) for name in "abcd"])
    run.run(Settings(("tiny",), ("adamw",), repeats=1))
    assert max(counts) == 2


def out_of_device_memory(*args: object, **options: object) -> None:
    raise torch.OutOfMemoryError("out of memory")


def out_of_cpu_memory(*args: object, **options: object) -> None:
    torch.empty(2**58)


@pytest.mark.parametrize("full", [out_of_device_memory, out_of_cpu_memory])
def test_lack_of_memory_is_one_clear_error(
    full: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "time_in_turn", full)
        with pytest.raises(ZeromeanError, match="memory of cpu cannot hold tiny twelve times"):
            run.run(Settings(("tiny",), ("sgd",), repeats=1))
    monkeypatch.setattr(run, "_compare", lambda *args: None)
    monkeypatch.setattr(run, "training_step", full)
    with pytest.raises(ZeromeanError, match=r"cannot hold a training step\. Omit --training"):
        run.run(Settings(("tiny",), ("sgd",), repeats=1, training=True))


def test_other_errors_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("another problem")

    monkeypatch.setattr(run, "time_in_turn", broken)
    with pytest.raises(RuntimeError, match="another problem"):
        run.run(Settings(("tiny",), ("sgd",), repeats=1))


@pytest.mark.usefixtures("_small_training", "_fast")
def test_unavailable_baselines_are_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*args: object) -> None:
        raise Unavailable("not supported on mps")

    def start(work: Work) -> None:
        unavailable()

    drop_ins, others = ZEROMEAN[:2], ZEROMEAN[2:]
    missing = tuple(replace(one, start=start, make=unavailable) for one in others)
    monkeypatch.setattr(run, "ZEROMEAN", (*drop_ins, *missing))
    monkeypatch.setattr(run, "BASELINES", (*TORCH, *drop_ins, *missing))
    result = run.run(Settings(("tiny",), ("sgd",), repeats=1, training=True))
    assert {baseline for _, baseline in result.training} == set(drop_ins)
    assert {baseline for baseline, _ in result.retained} == set(drop_ins)


@pytest.mark.parametrize("option", ["tensors", "optimizers"])
def test_benchmark_without_names_raises(option: str) -> None:
    with pytest.raises(ZeromeanError, match=f"--{option.removesuffix('s')}s? has no name"):
        Settings(**{option: ()})

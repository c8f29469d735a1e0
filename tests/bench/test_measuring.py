"""What is measured, with a clock and optimizers of known behavior."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zeromean import optim
from zeromean.bench import kept, run, timing
from zeromean.bench.contestants.contestant import of_optimizer
from zeromean.bench.contestants.torchs_own import TORCH, torchs
from zeromean.bench.contestants.zeromeans_own import ZEROMEAN, drop_in
from zeromean.bench.settings import Settings
from zeromean.bench.timing import Duel, duel
from zeromean.bench.traffic import Traffic
from zeromean.bench.training import training_step
from zeromean.bench.work import OPTIMIZERS, Work

CPU = torch.device("cpu")


class Clock:
    """A clock that only steps move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def step(self, name: str, seconds: float) -> None:
        self.log.append(name)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_two_steps_take_turns_and_begin_in_turn(clock: Clock) -> None:
    result = duel(partial(clock.step, "a", 1.0), partial(clock.step, "b", 2.5), 3, CPU)
    assert "".join(clock.log) == "aaabbbabbaab"
    assert result == Duel((1.0, 1.0, 1.0), (2.5, 2.5, 2.5))
    assert (result.seconds, result.ratio, result.quartiles) == (2.5, 2.5, (2.5, 2.5))


def test_a_slow_moment_that_meets_both_leaves_the_ratio(clock: Clock) -> None:
    rounds = iter([1, 1, 1, 1, 1, 1, 1, 1, 50, 50])

    def step(seconds: float) -> None:
        clock.now += seconds * next(rounds)

    result = duel(partial(step, 1.0), partial(step, 3.0), 2, CPU)
    assert result.ratio == 3.0
    assert result.base == (1.0, 50.0)


def test_what_is_too_quick_for_a_clock_is_repeated(clock: Clock) -> None:
    result = duel(partial(clock.step, "a", 0.002), partial(clock.step, "b", 0.1), 1, CPU)
    assert "".join(clock.log) == "aaabbbaaab"
    assert result.ratio == pytest.approx(50)


def test_quartiles_hold_the_middle_half() -> None:
    ratios = (1.0, 2.0, 3.0, 4.0, 5.0)
    assert Duel((1.0,) * 5, ratios).quartiles == (2.0, 4.0)


def test_traffic_is_what_a_step_moves_by_its_time_beside_a_copy() -> None:
    found = Traffic(parameters=1000, bytes_moved=28, times=Duel((2e-6,), (7e-6,)))
    assert found.step_rate == pytest.approx(4e9)  # 28 kB in 7 us
    assert found.copy_rate == pytest.approx(4e9)  # 8 kB in 2 us
    assert found.share == pytest.approx(1)


def typed(dtype: torch.dtype) -> Work:
    return Work(OPTIMIZERS["adamw"], [(5, 3), (4, 2, 3, 3), (6,)], CPU, dtype)


@pytest.mark.parametrize("contestant", ZEROMEAN, ids=lambda one: one.name)
def test_centering_keeps_a_residual_for_half_precision_updates_alone(contestant: object) -> None:
    assert kept.beyond(contestant, TORCH[0], typed(torch.float32)) == 0
    residual = 4 * (5 + 4) if contestant.centers == "update" else 0
    assert kept.beyond(contestant, TORCH[0], typed(torch.bfloat16)) == residual


class Hoarder(torch.optim.SGD):
    """Keeps ten numbers more, wherever it is told to."""

    def __init__(self, parameters: object, place: str) -> None:
        super().__init__(parameters)
        more = torch.zeros(10)
        if place == "attribute":
            self.more = {"list": [(more, more[:3])]}  # one storage, met twice
        elif place == "closure":
            self.more = lambda: more
        else:
            self.register_step_post_hook(Keeper(more).hook)


class Keeper:
    def __init__(self, more: torch.Tensor) -> None:
        self.more = more

    def hook(self, *args: object) -> None:
        """Does nothing."""


@pytest.mark.parametrize("place", ["attribute", "closure", "hook"])
def test_what_an_optimizer_keeps_is_found_wherever_it_is(place: str) -> None:
    hoarder = of_optimizer("hoarder", None, lambda hyper, ps, model: Hoarder(ps, place))
    work = Work(OPTIMIZERS["sgd"], [(5, 3)], CPU)
    assert kept.kept(hoarder, work) == 40


def test_state_counts_and_weights_and_gradients_do_not() -> None:
    work = Work(OPTIMIZERS["sgd"], [(5, 3), (7,)], CPU)
    assert kept.kept(TORCH[0], work) == 4 * (15 + 7)  # momentum


def test_a_training_step_trains_the_network_with_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[torch.optim.Optimizer, nn.Module]] = []

    def make(hyper: object, parameters: object, model: nn.Module) -> torch.optim.Optimizer:
        made.append((drop_in("update")(hyper, parameters, model), model))
        return made[0][0]

    step = training_step(make, OPTIMIZERS["adamw"], CPU, network="mlp", batch=4)
    (optimizer, model) = made[0]
    assert isinstance(optimizer, optim.AdamW)
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
    before = linear.weight.detach().clone()
    step()
    assert not torch.equal(linear.weight, before)
    torch.testing.assert_close(linear.weight.mean(1), before.mean(1))


def test_a_run_measures_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "training_step", partial(training_step, network="mlp", batch=2))
    monkeypatch.setattr(run, "IN_CACHE", 0)
    monkeypatch.setattr(timing, "SHORTEST", 0)
    said: list[str] = []
    settings = Settings(("tiny",), ("sgd", "adamw"), repeats=1, training=True)
    threads = torch.get_num_threads()
    result = run.run(settings, said.append)
    assert torch.get_num_threads() == threads
    assert [match.optimizer for match in result.matches] == ["sgd", "adamw"]
    for match in result.matches:
        assert match.base is TORCH[0]
        assert len(match.results) == len(run.CONTESTANTS) - 1
        assert match.base_seconds > 0
    assert set(result.traffic) == {("tiny", "sgd"), ("tiny", "adamw")}
    assert {contestant for contestant, _ in result.kept} == set(ZEROMEAN)
    assert {contestant for _, contestant in result.training} == set(ZEROMEAN)
    assert result.environment["kernels"]
    assert "AdamW: zeromean.optim, at update" in " ".join(said)


def test_where_torch_has_no_fused_step_the_next_one_is_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(work: Work) -> None:
        raise run.Absent("torch has none on mps")

    fused = of_optimizer("torch fused", None, torchs("fused"))
    monkeypatch.setattr(run, "CONTESTANTS", (vars_replaced(fused, absent), *TORCH[1:]))
    monkeypatch.setattr(timing, "SHORTEST", 0)
    match = run.run(Settings(("tiny",), ("sgd",), repeats=1)).matches[0]
    assert match.base.name == "torch foreach"
    assert match.results[0].outcome == "torch has none on mps"


def vars_replaced(contestant: object, start: object) -> object:
    import dataclasses

    return dataclasses.replace(contestant, start=start)


def test_too_little_memory_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(run, "duel", full)
    with pytest.raises(run.ZeromeanError, match="--tensors tiny on cpu, more than its memory"):
        run.run(Settings(("tiny",), ("sgd",), repeats=1))

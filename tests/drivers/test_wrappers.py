"""Test accelerate, SAM, weight averaging, schedulers and plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_optimizer
import schedulefree
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler, swa_utils

import zeromean

Say = Callable[[str, str, str, str], None]
AT = ["gradient", "update"]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    return (model(x + 1) - x[:, :3]).square().mean()


def train(model: nn.Module, optimizer: Optimizer, steps: range = range(4)) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def means(model: nn.Module) -> list[Tensor]:
    return [p.detach().mean(1) for p in model.parameters() if p.ndim > 1]


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# --- accelerate -----------------------------------------------------------------------------------


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(True)


def test_accelerated_optimizer_is_unwrapped(accelerator: Accelerator) -> None:
    model = network()
    prepared: Any = accelerator.prepare(AdamW(model.parameters()))
    handle = zeromean.centralize(prepared, model)
    assert zeromean.status(prepared).attached == handle.how
    assert zeromean.status(prepared.optimizer).attached == handle.how
    with pytest.raises(zeromean.ZeromeanError, match="centralized already"):
        zeromean.centralize(prepared.optimizer, model)


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("when", ["before prepare", "after prepare", "after prepare, inside"])
def test_accelerate(accelerator: Accelerator, at: Any, when: str, supports: Say) -> None:
    model = network()
    reference = copy.deepcopy(model)
    plain = AdamW(reference.parameters(), lr=0.05, weight_decay=0.1)
    zeromean.centralize(plain, reference, at=at)
    inner = AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    if when == "before prepare":
        zeromean.centralize(inner, model, at=at)
    net, optimizer = accelerator.prepare(model, inner)
    if when == "after prepare":
        zeromean.centralize(optimizer, net, at=at)
    elif when == "after prepare, inside":
        zeromean.centralize(optimizer.optimizer, net, at=at)
    for step in range(4):
        optimizer.zero_grad()
        accelerator.backward(loss_of(net, step))
        accelerator.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        plain.zero_grad()
        loss_of(reference, step).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        plain.step()
    assert_same(model, reference)
    supports("Driver", f"accelerate, {when}, with clipping", at, "equal to a plain loop")


# --- sharpness-aware minimization -----------------------------------------------------------------


class SAM(Optimizer):
    """Sharpness-aware minimization: ascend first, then use the gradient found there."""

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        super().__init__(base.param_groups, {})
        self.base_optimizer = base
        self.param_groups = base.param_groups
        self.rho = rho

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        climbs = [self.rho / norm * p.grad for p in parameters]
        for p, climb in zip(parameters, climbs, strict=True):
            p.add_(climb)
        with torch.enable_grad():
            closure()
        for p, climb in zip(parameters, climbs, strict=True):
            p.sub_(climb)
        self.base_optimizer.step()


@pytest.mark.parametrize("at", AT)
def test_sharpness_aware_minimization(at: Any, supports: Say) -> None:
    model = network()
    optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9))
    with pytest.raises(zeromean.ZeromeanError, match=r"SAM.*Pass optimizer\.base_optimizer"):
        zeromean.centralize(optimizer, model)
    zeromean.centralize(optimizer.base_optimizer, model, at=at)
    before, start = means(model), copy.deepcopy(model)
    for step in range(4):

        def closure(step: int = step) -> None:
            optimizer.zero_grad()
            loss_of(model, step).backward()

        closure()
        optimizer.step(closure)
    torch.testing.assert_close(means(model), before)
    assert not torch.equal(model[0].weight, start[0].weight)
    supports("Driver", "SAM, its base optimizer", at, "means kept; the wrapper is refused")


def test_other_wrappers_raise_and_name_the_inner_optimizer() -> None:
    model = network()
    wrappers: dict[str, Any] = {
        "base_optimizer": pytorch_optimizer.SAM(model.parameters(), SGD, lr=0.1),
        "optimizer": pytorch_optimizer.Lookahead(SGD(model.parameters(), lr=0.1)),
        "base": schedulefree.ScheduleFreeWrapper(SGD(model.parameters(), lr=0.1)),
    }
    for inner, wrapper in wrappers.items():
        with pytest.raises(zeromean.ZeromeanError, match=rf"Pass optimizer\.{inner}\.$"):
            zeromean.centralize(wrapper, model)


def test_wsam_needs_decouple_false() -> None:
    """The decoupled form adds an update of its own, which would not be centered."""
    model = network()
    wrapper = pytorch_optimizer.WSAM(model, model.parameters(), SGD, lr=0.1)
    with pytest.raises(
        zeromean.ZeromeanError,
        match=r"because decouple=True.*decouple=False and pass optimizer\.base",
    ):
        zeromean.centralize(wrapper, model)
    coupled: Any = pytorch_optimizer.WSAM(model, model.parameters(), SGD, decouple=False, lr=0.1)
    with pytest.raises(zeromean.ZeromeanError, match=r"Pass optimizer\.base_optimizer\.$"):
        zeromean.centralize(coupled, model)
    zeromean.centralize(coupled.base_optimizer, model)
    before, start = means(model), copy.deepcopy(model)
    for step in range(3):
        coupled.zero_grad()
        loss_of(model, step).backward()
        coupled.first_step(zero_grad=True)
        loss_of(model, step).backward()
        coupled.second_step()
    assert not torch.equal(model[0].weight, start[0].weight)
    drift = max(float((a - b).abs().max()) for a, b in zip(means(model), before, strict=True))
    assert drift < 1e-6, drift


@pytest.mark.parametrize("at", AT)
def test_lookahead_around_a_centralized_optimizer_keeps_means(at: Any, supports: Say) -> None:
    """Slow and fast weights have the same mean, and so has their interpolation."""
    model = network()
    inner = SGD(model.parameters(), lr=0.1, momentum=0.9)
    zeromean.centralize(inner, model, at=at)
    before = means(model)
    train(model, pytorch_optimizer.Lookahead(inner, k=2), range(5))
    torch.testing.assert_close(means(model), before)
    supports("Driver", "Lookahead around it", at, "means kept")


def test_schedule_free_wrapper_keeps_means(supports: Say) -> None:
    """The base steps z, which keeps its mean; the average of such points has the same."""
    model = network()
    base = SGD(model.parameters(), lr=0.1, weight_decay=0.1)  # the wrapper itself fails with Adam
    zeromean.centralize(base, model, at="update")
    before = means(model)
    optimizer: Any = schedulefree.ScheduleFreeWrapper(base)
    optimizer.train()
    train(model, optimizer, range(5))
    torch.testing.assert_close(means(model), before)
    optimizer.eval()
    torch.testing.assert_close(means(model), before)
    supports("Driver", "schedulefree's wrapper around it", "update", "means kept, in eval too")


# --- averages, schedules, plain loops -------------------------------------------------------------


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("average", ["mean", "exponential"])
def test_averaged_weights(average: str, at: Any, supports: Say) -> None:
    model = network()
    optimizer = AdamW(model.parameters(), lr=0.05)
    zeromean.centralize(optimizer, model, at=at)
    how = {"mean": None, "exponential": swa_utils.get_ema_multi_avg_fn(0.9)}[average]
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=how)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.01, anneal_epochs=2)
    seen = []
    before = means(model)
    for step in range(4):
        train(model, optimizer, range(step, step + 1))
        schedule.step()
        averaged.update_parameters(model)
        seen.append(model[0].weight.detach().clone())
    expected = seen[0]
    for number, weight in enumerate(seen[1:], start=1):
        share = 0.1 if average == "exponential" else 1 / (number + 1)
        expected = expected + share * (weight - expected)
    torch.testing.assert_close(averaged.module[0].weight.detach(), expected)
    if at == "update":
        torch.testing.assert_close(means(averaged.module), before)
    supports("Driver", f"swa_utils, {average} average, SWALR", at, "equal to averaging by hand")


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[2]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("centralize_first", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate_schedules(name: str, centralize_first: bool, at: Any, supports: Say) -> None:
    model = network()
    twin = copy.deepcopy(model)
    optimizer, by_hand = SGD(model.parameters(), lr=0.1), SGD(twin.parameters(), lr=0.1)
    if centralize_first:
        zeromean.centralize(optimizer, model, at=at)
    schedule, other = SCHEDULES[name](optimizer), SCHEDULES[name](by_hand)
    if not centralize_first:
        zeromean.centralize(optimizer, model, at=at)
    argument = (1.0,) if name == "ReduceLROnPlateau" else ()
    for step in range(5):
        train(model, optimizer, range(step, step + 1))
        schedule.step(*argument)
        by_hand.zero_grad()
        loss_of(twin, step).backward()
        for p in twin.parameters():
            if p.ndim > 1:
                p.grad -= p.grad.mean(1, keepdim=True)
        by_hand.step()
        other.step(*argument)
    assert_same(model, twin)
    supports("Driver", f"lr_scheduler.{name}", at, "equal to centering by hand")


@pytest.mark.parametrize("at", AT)
def test_a_plain_loop(at: Any, supports: Say) -> None:
    """Combine accumulation, clipping and a skipped step in one loop."""
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    zeromean.centralize(optimizer, model, at=at)
    before, start = means(model), copy.deepcopy(model)
    for step in range(9):
        (loss_of(model, step) / 3).backward()
        if step % 3 == 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            if step != 5:
                optimizer.step()
            optimizer.zero_grad(set_to_none=step == 2)
    torch.testing.assert_close(means(model), before)
    assert not torch.equal(model[0].weight, start[0].weight)
    supports("Driver", "plain loop, accumulation, clipping, skipped steps", at, "means kept")

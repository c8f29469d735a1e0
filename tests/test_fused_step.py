"""centralize takes over the whole step: equal to two passes, and torch's own without a plan."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.testing._internal.common_optimizers import optim_db

import zeromean
from zeromean import optim
from zeromean.centralization import fused_step

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
KINDS = {SGD: {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, Adam: {}, AdamW: {"lr": 0.01}}
INPUTS = [
    pytest.param(info.optim_cls, given.kwargs, id=f"{info.optim_cls.__name__}-{given.desc}")
    for info in optim_db
    if info.optim_cls in KINDS
    for given in info.optim_inputs_func(device="cpu")
    if not given.kwargs.get("differentiable")
]
pytestmark = [
    pytest.mark.usefixtures("native_library"),
    pytest.mark.filterwarnings("ignore:The momentum of earlier"),
]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.Flatten(), nn.Linear(6 * 5 * 5, 3),
    ).to(dtype)  # fmt: skip


def loss_of(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(step)
    dtype = next(model.parameters()).dtype
    return model(torch.randn(4, 3, 6, 6).to(dtype)).square().mean()


def backward(model: nn.Module, step: int) -> None:
    model.zero_grad()
    loss_of(model, step).backward()


def assert_same(a: Any, b: Any, model: nn.Module, other: nn.Module) -> None:
    """Compare weights and state to the rounding of their type."""
    double = next(model.parameters()).dtype == torch.float64
    tolerance = {"rtol": 1e-12, "atol": 1e-13} if double else {"rtol": 1e-6, "atol": 1e-6}
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)
        state, expected = (
            {key: value for key, value in optimizer.state.get(x, {}).items() if value is not None}
            for optimizer, x in ((a, p), (b, q))
        )
        assert state.keys() == expected.keys()
        for key in state:
            torch.testing.assert_close(state[key], expected[key], **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize(("kind", "options"), INPUTS)
def test_every_option_of_torch(kind: Any, options: dict[str, Any], at: Any, dtype: Any) -> None:
    model = network(dtype)
    other = copy.deepcopy(model)
    optimizer, twin = (kind(m.parameters(), **options) for m in (model, other))
    assert zeromean.centralize(optimizer, model, at=at).way.name == "taken over"
    zeromean.centralize(twin, other, at=at, fused=False)
    for step in range(5):
        backward(model, step)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            q.grad = p.grad.clone()
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        twin.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        assert_same(optimizer, twin, model, other)


@pytest.mark.filterwarnings("ignore:Nothing is centered")
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize(("kind", "options"), INPUTS)
def test_an_empty_plan_is_torchs_own_step(kind: Any, options: dict[str, Any], at: Any) -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer, twin = (kind(m.parameters(), **options) for m in (model, other))
    handle = zeromean.centralize(optimizer, model, at=at, layers=lambda *_: False, fused=True)
    assert handle.way.name == "taken over"
    for step in range(5):
        backward(model, step)
        backward(other, step)
        optimizer.step()
        twin.step()
        assert_same(optimizer, twin, model, other)


# --- what happens during a training run: the same script with and without taking over -------------


class Run:
    """A model, its optimizer and their handle."""

    def __init__(self, kind: Any, at: str, fused: bool | None) -> None:
        self.model, self.at, self.fused = network(), at, fused
        self.model[0].requires_grad_(False)
        parameters = self.model[:5].parameters()
        self.optimizer = kind(parameters, **KINDS[kind])
        self.attach()

    def attach(self) -> None:
        self.handle = zeromean.centralize(self.optimizer, self.model, at=self.at, fused=self.fused)

    def step(self, number: int) -> None:
        backward(self.model, number)
        self.optimizer.step()


def accumulate(run: Run) -> None:
    run.model.zero_grad()
    for part in range(3):
        (loss_of(run.model, 50 + part) / 3).backward()
    run.optimizer.step()


def unfreeze(run: Run) -> None:
    run.model[0].requires_grad_(True)


def add_group(run: Run) -> None:
    run.optimizer.add_param_group({"params": run.model[5].parameters(), "lr": 0.03})


def reload(run: Run) -> None:
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


def resume_in_torch(run: Run) -> None:
    """Continue without zeromean for a step, from a checkpoint, and come back."""
    state, kind = run.optimizer.state_dict(), type(run.optimizer)
    run.handle.remove()
    groups = [{"params": group["params"]} for group in run.optimizer.param_groups]
    run.optimizer = kind(groups, lr=0.5)
    run.optimizer.load_state_dict(state)
    run.step(60)
    run.attach()


def copy_all(run: Run) -> None:
    run.model, run.optimizer = copy.deepcopy((run.model, run.optimizer))
    run.attach()


def pickle_all(run: Run) -> None:
    run.model, run.optimizer = pickle.loads(pickle.dumps((run.model, run.optimizer)))
    run.attach()


def schedule(run: Run) -> None:
    schedule = OneCycleLR(run.optimizer, 0.05, total_steps=5)
    for number in range(4):
        run.step(70 + number)
        schedule.step()


def closure(run: Run) -> None:
    def evaluate() -> Tensor:
        assert torch.is_grad_enabled()
        run.model.zero_grad()
        loss = loss_of(run.model, 80)
        loss.backward()
        return loss

    assert run.optimizer.step(evaluate) > 0
    assert run.optimizer.step(closure=evaluate) > 0


def scale(run: Run) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run.model.zero_grad()
    scaler.scale(loss_of(run.model, 90)).backward()
    scaler.step(run.optimizer)
    scaler.update()


def scale_fused(run: Run) -> None:
    for group in run.optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    run.optimizer._step_supports_amp_scaling = True
    scale(run)
    run.optimizer._step_supports_amp_scaling = False
    scale(run)


def hook_before(run: Run) -> None:
    def clip(optimizer: Any, *_: Any) -> None:
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 0.01)

    hook = run.optimizer.register_step_pre_hook(clip)
    assert run.handle.way.name == "two passes"
    run.step(100)
    hook.remove()


def hook_after(run: Run) -> None:
    def decay(optimizer: Any, *_: Any) -> None:
        with torch.no_grad():
            optimizer.param_groups[0]["params"][-1].mul_(0.5)

    hook = run.optimizer.register_step_post_hook(decay)
    run.step(110)
    hook.remove()


def no_gradient(run: Run) -> None:
    backward(run.model, 120)
    run.model[3].weight.grad = None
    run.optimizer.step()
    run.model.zero_grad()
    run.optimizer.step()


def replace_storage(run: Run) -> None:
    for p in run.model.parameters():
        p.data = p.data.clone()
    run.model[3].to(memory_format=torch.channels_last)


def other_options(run: Run) -> None:
    for group in run.optimizer.param_groups:
        group["maximize"] = True
        group["weight_decay"] = 0.2


SCRIPTS = [
    accumulate, unfreeze, add_group, reload, resume_in_torch, copy_all, pickle_all, schedule,
    closure, scale, scale_fused, hook_before, hook_after, no_gradient, replace_storage,
    other_options,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler")
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_training_is_the_same_as_in_two_passes(
    script: Callable[[Run], None], kind: Any, at: str
) -> None:
    runs = [Run(kind, at, fused) for fused in (None, False)]
    for run in runs:
        for number in range(2):
            run.step(number)
        script(run)
        for number in range(2, 4):
            run.step(number)
    assert [run.handle.way.name for run in runs] == ["taken over", "two passes"]
    assert_same(runs[0].optimizer, runs[1].optimizer, runs[0].model, runs[1].model)
    states = [run.optimizer.state_dict() for run in runs]
    assert states[0]["param_groups"] == states[1]["param_groups"]


# --- which way is used ----------------------------------------------------------------------------


class OwnStep(AdamW):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class OwnGroups(AdamW):
    def _init_group(self, *args: Any) -> Any:
        return super()._init_group(*args)


class Renamed(AdamW):
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda m: OwnStep(m.parameters()), "does not step as torch's"),
        (lambda m: OwnGroups(m.parameters()), "does not step as torch's"),
        (lambda m: torch.optim.RMSprop(m.parameters()), "does not step as torch's"),
        (lambda m: AdamW(m.half().parameters()), "no compiled kernels"),
    ],
)
def test_it_says_why_it_centers_in_two_passes(make: Any, reason: str) -> None:
    model = nn.Linear(5, 3)
    optimizer = make(model)
    handle = zeromean.centralize(optimizer, model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert handle.way.name == "two passes"
    assert reason in handle.way.reason
    assert f"step: {handle.way}" in str(zeromean.status(optimizer))
    handle.remove()
    assert handle.way.name == "not centered"
    if "compiled" not in reason:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()  # its momentum is not zero-mean
        state = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(zeromean.ZeromeanError, match=reason):
            zeromean.centralize(optimizer, model, fused=True, project_state=True)
        assert zeromean.status(optimizer).attached is None
        torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


def test_capturable_step_on_the_cpu_is_left_to_torch() -> None:
    model = network()
    optimizer = AdamW(model.parameters(), capturable=True)
    way = zeromean.centralize(optimizer, model).way
    assert way == ("two passes", "capturable=True is supported on CUDA devices only")
    backward(model, 0)
    with pytest.raises(AssertionError, match="capturable=True, params"):  # torch refuses it
        optimizer.step()


def test_way_names_a_gradient_scaler_between_its_steps() -> None:
    model = network(torch.float32)
    optimizer = SGD(model.parameters(), lr=0.1, fused=True)
    handle = zeromean.centralize(optimizer, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model, 0)).backward()
    scaler.step(optimizer)
    assert handle.way == ("two passes", fused_step._SCALED)
    backward(model, 1)
    optimizer.step()
    assert handle.way.name == "taken over"


def test_required_fused_step_raises_later_too() -> None:
    model = network()
    optimizer = AdamW(model.parameters())
    handle = zeromean.centralize(optimizer, model, fused=True)
    optimizer.register_step_pre_hook(lambda *_: None)
    backward(model, 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(zeromean.ZeromeanError, match="another hook"):
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )
    handle.remove()
    with pytest.raises(zeromean.ZeromeanError, match="has no effect"):
        zeromean.centralize(optimizer, model, at="backward", fused=True)


def test_required_fused_step_raises_if_no_kernel_serves_the_parameters() -> None:
    model = nn.Linear(5, 3).half()
    optimizer = AdamW(model.parameters())
    zeromean.centralize(optimizer, model, fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = model.weight.detach().clone()
    with pytest.raises(zeromean.ZeromeanError, match="no compiled kernels"):
        optimizer.step()
    assert torch.equal(model.weight, before)
    assert torch.equal(model.weight.grad, torch.ones_like(before))


@pytest.mark.parametrize("kind", KINDS)
def test_param_groups_may_hold_options_of_other_optimizers(kind: Any) -> None:
    """torch allows any key, so one list of groups can serve several optimizers."""
    model = network()
    groups = [{"params": model.parameters(), "momentum": 0.9, "betas": (0.9, 0.99)}]
    optimizer = kind(groups, lr=0.1)
    zeromean.centralize(optimizer, model, fused=True)
    before = model[0].weight.detach().clone()
    backward(model, 0)
    optimizer.step()
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("given", ["coupled", "decoupled"])
def test_redefined_decay_takes_two_passes(given: Any) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    way = zeromean.centralize(optimizer, model, weight_decay=given).way
    assert way.name == ("taken over" if given == "coupled" else "two passes")


@pytest.mark.parametrize("first", [True, False])
def test_a_subclass_without_its_own_step(first: bool) -> None:
    """torch wraps the step of whichever class is instantiated first."""
    kind = type("Sub", (Renamed,), {})
    model = network()
    if not first:
        kind(model.parameters())
    AdamW(model.parameters())
    other = copy.deepcopy(model)
    optimizer, twin = kind(model.parameters()), kind(other.parameters())
    handle = zeromean.centralize(optimizer, model, fused=True)
    zeromean.centralize(twin, other, fused=False)
    for step in range(3):
        backward(model, step)
        backward(other, step)
        optimizer.step()
        twin.step()
    assert handle.way.name == "taken over"
    assert_same(optimizer, twin, model, other)


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("replaced", [False, True])
def test_step_that_does_more_than_torchs_takes_two_passes(
    at: Any, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some programs wrap ``step`` by functools.wraps, or replace it in torch's class."""
    plain = inspect.unwrap(SGD.step)

    @torch.no_grad()
    def step(optimizer: Any, closure: Any = None) -> Any:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)
        return plain(optimizer, closure)

    kind: Any = type("Wrapped", (SGD,), {"step": functools.wraps(plain)(step)})
    if replaced:
        monkeypatch.setattr(SGD, "step", step)
        kind = SGD
    model = network()
    other = copy.deepcopy(model)
    optimizer, twin = kind(model.parameters(), lr=0.1), optim.SGD(other, lr=0.05, at=at)
    handle = zeromean.centralize(optimizer, model, at=at)
    assert handle.way.name == "two passes"
    for number in range(2):
        backward(model, number)
        backward(other, number)
        optimizer.step()
        twin.step()
    assert_same(optimizer, twin, model, other)


# --- gradients that the kernels do not serve ------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.served = nn.Linear(5, 3)
        self.narrow = nn.Parameter(torch.randn(3, 5).half())
        self.gaps = nn.Linear(5, 3, bias=False)
        self.gaps.weight.data = torch.randn(3, 10)[:, ::2]
        self.paired = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_centered_and_left_to_torch(kind: Any, at: Any) -> None:
    model, other = Mixed(), Mixed()
    optimizer = kind(model.parameters(), **KINDS[kind])
    twin = kind(other.parameters(), **KINDS[kind])
    handle = zeromean.centralize(optimizer, model, at=at)
    zeromean.centralize(twin, other, at=at, fused=False)
    for _ in range(4):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert handle.way.name == "taken over"
    assert "torch steps 3 of 5" in handle.way.reason


def test_sparse_gradient_is_refused_first() -> None:
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Linear(3, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, embeddings=True)
    model(torch.tensor([1])).sum().backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(zeromean.ZeromeanError, match="sparse"):
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )
    assert all(p.grad is not None for p in model.parameters())


def test_uncentered_sparse_gradient_is_left_to_torch() -> None:
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Linear(3, 2))
    other = copy.deepcopy(model)
    for m, fused in ((model, None), (other, False)):
        optimizer = SGD(m.parameters(), lr=0.1)
        zeromean.centralize(optimizer, m, fused=fused)
        m(torch.tensor([1])).sum().backward()
        optimizer.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize(
    "kind", [AdamW, functools.partial(SGD, lr=0.1, momentum=0.9, dampening=0.5)]
)
def test_a_parameter_that_is_listed_twice(kind: Any) -> None:
    model, other = nn.Linear(5, 3), nn.Linear(5, 3)
    other.load_state_dict(model.state_dict())
    for m, fused in ((model, None), (other, False)):
        optimizer = kind([m.weight, m.weight], foreach=False)
        zeromean.centralize(optimizer, m, at="update", fused=fused)
        m.weight.grad = torch.arange(15.0).view(3, 5)
        optimizer.step()
    torch.testing.assert_close(model.weight, other.weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_bfloat16_is_computed_in_float32_and_rounded_once(kind: Any, at: Any) -> None:
    model = nn.Linear(64, 8).bfloat16()
    exact = copy.deepcopy(model).double()
    optimizer = kind(model.parameters(), **KINDS[kind])
    twin = kind(exact.parameters(), **KINDS[kind])
    zeromean.centralize(optimizer, model, at=at, fused=True)
    zeromean.centralize(twin, exact, at=at, fused=False)
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.double()
    optimizer.step()
    twin.step()
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(p.double(), q, rtol=2**-8, atol=2**-12)


# --- exceptions -----------------------------------------------------------------------------------


def grads(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(p.grad, p.grad.clone()) for p in model.parameters()]


def assert_kept(model: nn.Module, before: list[tuple[Tensor, Tensor]]) -> None:
    for p, (gradient, value) in zip(model.parameters(), before, strict=True):
        assert p.grad is gradient
        assert torch.equal(gradient, value)


def test_a_closure_that_raises_leaves_everything_as_it_was() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    backward(model, 0)
    before, weights = grads(model), [p.clone() for p in model.parameters()]

    def evaluate() -> Tensor:
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        optimizer.step(evaluate)
    assert_kept(model, before)
    assert all(map(torch.equal, model.parameters(), weights))


def test_a_kernel_that_fails_leaves_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise KeyboardInterrupt

    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    backward(model, 0)
    before = grads(model)
    monkeypatch.setattr(fused_step.BoundStep, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert_kept(model, before)


@pytest.mark.parametrize("then", ["step", "remove"])
def test_an_interrupt_inside_the_step(then: str) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model)
    backward(model, 0)
    before = grads(model)
    interrupts = iter([True, False, False])

    def interrupt(*_: Any) -> None:
        if next(interrupts):
            raise KeyboardInterrupt

    optimizer._optimizer_step_code = interrupt  # torch calls this after its own step
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert_kept(model, before)
    held = optimizer.param_groups[0]["params"]
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))
    weights = [p.clone() for p in model.parameters()]
    if then == "remove":
        handle.remove()
    optimizer.step()
    assert not any(map(torch.equal, model.parameters(), weights))
    assert_kept(model, before)


@pytest.mark.parametrize("interrupted", ["a step that torch makes in part", "two passes"])
def test_an_interrupted_step_leaves_no_means_to_restore(interrupted: str) -> None:
    model = Mixed()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, at="update")
    in_part = interrupted != "two passes"
    between = None if in_part else optimizer.register_step_pre_hook(lambda *_: None)
    for p in model.parameters():
        p.grad = torch.randn_like(p) if in_part or p is model.served.weight else None

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    optimizer._optimizer_step_code = interrupt  # torch calls this after its own step
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    del optimizer._optimizer_step_code
    if between is not None:
        between.remove()
    assert "two passes" not in handle.way.name
    for p in model.parameters():
        p.data += 1
        p.grad = torch.randn_like(p) if p is model.served.weight else None
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        if p is model.served.weight:
            assert not torch.equal(p, old)
            torch.testing.assert_close(p.mean(1), old.mean(1))
        else:
            assert torch.equal(p, old)


def test_lookahead_around_a_centralized_optimizer() -> None:
    model, other = network(), network()
    inner, twin = (SGD(m.parameters(), lr=0.1) for m in (model, other))
    zeromean.centralize(inner, model, fused=True)
    zeromean.centralize(twin, other, fused=False)
    optimizers = [optim.Lookahead(o, k=2) for o in (inner, twin)]
    for step in range(4):
        for m, o in zip((model, other), optimizers, strict=True):
            backward(m, step)
            o.step()
    assert_same(inner, twin, model, other)


def test_optimizers_in_several_threads() -> None:
    models = [network() for _ in range(4)]

    def train(model: nn.Module) -> None:
        optimizer = AdamW(model.parameters())
        zeromean.centralize(optimizer, model, fused=True)
        for step in range(20):
            for n, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 1.0 + n + step) * p.detach()
            optimizer.step()

    threads = [threading.Thread(target=train, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models[1:]:
        for p, q in zip(model.parameters(), models[0].parameters(), strict=True):
            assert torch.equal(p, q)

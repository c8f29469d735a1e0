"""Test types, memory layouts, loss scaling, clipping and accumulation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import zeromean

Supports = Callable[[str, str, str, str], None]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


def wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def centralized(
    model: nn.Module, at: Any = "gradient", fused: bool | None = None, **hyper: Any
) -> tuple[torch.optim.Optimizer, zeromean.Handle]:
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, **hyper})
    return optimizer, zeromean.centralize(optimizer, model, at=at, fused=fused)


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_every_type_are_centered(dtype: torch.dtype, supports: Supports) -> None:
    model = nn.Linear(4099, 8, bias=False, dtype=dtype)
    optimizer, _ = centralized(model, fused=False)
    gradient = (torch.randn(8, 4099) + 1).to(dtype)
    model.weight.grad = gradient.clone()
    optimizer.step()
    exact = wide(gradient) - wide(gradient).mean(1, keepdim=True)
    assert model.weight.grad.dtype == dtype
    torch.testing.assert_close(
        wide(model.weight.grad), exact, rtol=torch.finfo(dtype).eps, atol=2e-6
    )
    supports(
        "Number", f"{dtype}".removeprefix("torch."), "gradient", "against float64 or complex128"
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_of_every_type_keep_their_means(dtype: torch.dtype, supports: Supports) -> None:
    model = nn.Linear(257, 8, bias=False, dtype=dtype)
    optimizer, _ = centralized(model, at="update", lr=1e-2)
    start = wide(model.weight.detach()).mean(1)
    for _ in range(100):
        model.weight.grad = (torch.randn(8, 257) + 0.3).to(dtype)
        optimizer.step()
    drift = (wide(model.weight.detach()).mean(1) - start).abs().max()
    # A plain step moves the means by 0.3, ten standard deviations of the weights.
    rounding = {torch.bfloat16: 2e-4, torch.float16: 3e-5}.get(dtype, 1e-6)
    assert drift < rounding
    supports("Number", f"{dtype}".removeprefix("torch."), "update", "drift of the means, 100 steps")


def test_bfloat16_means_accumulate_in_float32() -> None:
    gradient = (torch.randn(64, 4096) + 2).to(torch.bfloat16)
    exact = gradient.double()
    deviation = exact.std()
    ours = zeromean.center(gradient, 1).double().mean(1).abs().max() / deviation
    rounded = (gradient - gradient.mean(1, keepdim=True)).double().mean(1).abs().max() / deviation
    assert ours < 2e-3
    assert ours < rounded / 2


@given(
    st.lists(st.floats(-65504, 65504, width=16), min_size=2, max_size=40),
    st.sampled_from([None, float("inf"), float("-inf"), float("nan")]),
)
def test_float16_keeps_finite_and_non_finite_entries(entries: list[float], poison: Any) -> None:
    model = nn.Linear(len(entries), 1, bias=False).half()
    optimizer, _ = centralized(model, lr=0.0)
    gradient = torch.tensor([entries], dtype=torch.float16)
    if poison is not None:
        gradient[0, len(entries) // 2] = poison
    model.weight.grad = gradient.clone()
    optimizer.step()
    assert model.weight.grad.isfinite().all() == gradient.isfinite().all()


def test_float16_saturates_on_overflow() -> None:
    model = nn.Linear(10, 1, bias=False).half()
    optimizer, _ = centralized(model, lr=0.0)
    model.weight.grad = torch.tensor([[60000.0] + [-60000.0] * 9]).half()
    optimizer.step()
    assert model.weight.grad[0, 0] == 65504  # 60000 + 48000 exceeds float16
    assert (model.weight.grad[0, 1:] == -12000).all()


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_layouts_and_storage_do_not_change(at: Any, supports: Supports) -> None:
    layouts: dict[str, Callable[[Tensor], Tensor]] = {
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed": lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    }
    for name, layout in layouts.items():
        for layer in (nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3, groups=2)):
            layer.weight = nn.Parameter(layout(layer.weight.detach().double()))
            optimizer, _ = centralized(layer, at=at)
            gradient = layout(torch.randn_like(layer.weight))
            layer.weight.grad = gradient
            expected = gradient.clone()
            for row in zeromean.explain(layer).centered:
                expected = zeromean.center(expected, row.axes, row.groups)
            start = layer.weight.detach().clone()
            places = (layer.weight.data_ptr(), gradient.data_ptr(), gradient.stride())
            optimizer.step()
            assert (layer.weight.data_ptr(), gradient.data_ptr(), gradient.stride()) == places
            torch.testing.assert_close(layer.weight.detach(), start - 0.1 * expected)
        supports("Number", f"{name} weights and gradients", at, "layout, storage and values kept")


# --- loss scaling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_gradient_scaler_changes_nothing(
    kind: Any, at: Any, fused: bool, supports: Supports
) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    twin = copy.deepcopy(model)
    hyper = {"lr": 0.05, "weight_decay": 0.5, "fused": fused}
    optimizer, plain = kind(model.parameters(), **hyper), kind(twin.parameters(), **hyper)
    zeromean.centralize(optimizer, model, at=at)
    zeromean.centralize(plain, twin, at=at)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(5):
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        plain.zero_grad()
        twin(x).square().mean().backward()
        plain.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    name = f"GradScaler, {'fused' if fused else 'unfused'} {kind.__name__}"
    supports("Number", name, at, "the same weights as without scaling, decay 0.5")


@pytest.mark.parametrize("unscale_first", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_step_skipped_by_the_scaler_stays_skipped(
    bad: float, at: Any, fused: bool, unscale_first: bool
) -> None:
    model = nn.Linear(6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1, fused=fused)
    zeromean.centralize(optimizer, model, at=at)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = copy.deepcopy(model.state_dict())
    scaler.scale(model(torch.randn(3, 6)).sum()).backward()
    model.weight.grad[0, 3] = bad
    if unscale_first:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_autocast_in_bfloat16(supports: Supports) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    optimizer, handle = centralized(model, momentum=0.9, weight_decay=0.1)
    start = [row.parameter.detach().flatten(1).mean(1) for row in handle.plan.centered]
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.randn(4, 3, 6, 6)).float().square().mean()
        loss.backward()
        optimizer.step()
    now = [row.parameter.detach().flatten(1).mean(1) for row in handle.plan.centered]
    torch.testing.assert_close(now, start)
    supports("Number", "autocast in bfloat16", "gradient", "means of the weights kept")


# --- gradients between backward and step ------------------------------------------


def test_clipping_comes_before_centering(supports: Supports) -> None:
    model = nn.Linear(6, 4)
    optimizer, _ = centralized(model, fused=False)
    model(torch.randn(8, 6) + 1).sum().backward()
    raw = model.weight.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    clipped = raw * (0.5 / (norm + 1e-6))
    torch.testing.assert_close(model.weight.grad, zeromean.center(clipped, 1))
    supports("Number", "clip_grad_norm_ before the step", "gradient", "P of the clipped gradient")


def test_accumulated_gradients_are_centered_once(supports: Supports) -> None:
    model = nn.Linear(6, 4)
    optimizer, _ = centralized(model, fused=False, weight_decay=0.1)
    parts = [torch.randn(8, 6) for _ in range(3)]
    for part in parts:
        model(part).square().mean().backward()
    total = model.weight.grad.clone()
    weight = model.weight.detach().clone()
    optimizer.step()
    seen = model.weight.grad + 0.1 * weight
    torch.testing.assert_close(seen, zeromean.center(total + 0.1 * weight, 1))
    supports("Number", "gradient accumulation", "gradient", "P of the sum")


@pytest.mark.parametrize("set_to_none", [False, True])
def test_gradients_kept_as_zeros_or_none(set_to_none: bool) -> None:
    model = nn.Linear(6, 4)
    optimizer, _ = centralized(model)
    before = model.weight.detach().mean(1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=set_to_none)
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach().mean(1), before)


def test_unfrozen_parameter_is_centered() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    optimizer, _ = centralized(model)
    means = [layer.weight.detach().mean(1) for layer in model]
    for frozen in (True, False):
        model[0].requires_grad_(not frozen)
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close([layer.weight.detach().mean(1) for layer in model], means)


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize(
    "options", [{"lr": torch.tensor(0.01)}, {"foreach": True}, {"fused": True}]
)
def test_foreach_and_fused_steps(at: Any, options: dict[str, Any]) -> None:
    results = []
    for extra, fused in ((options, False), ({}, None)):
        torch.manual_seed(0)
        model = nn.Linear(6, 4).double()
        hyper = {"lr": 0.01, "weight_decay": 0.1, **extra}
        optimizer = torch.optim.AdamW(model.parameters(), **hyper)
        zeromean.centralize(optimizer, model, at=at, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 6).double()).square().mean().backward()
            optimizer.step()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)

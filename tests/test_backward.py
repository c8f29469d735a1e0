"""Test at="backward" for optimizers that step during the backward pass."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zeromean

Supports = Callable[[str, str, str, str], None]
AdamW, SGD = torch.optim.AdamW, torch.optim.SGD


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).double()  # fmt: skip


def batch() -> Tensor:
    return torch.randn(4, 3, 6, 6).double()


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_equals_centering_in_step(supports: Supports) -> None:
    model = network()
    twin = copy.deepcopy(model)
    optimizers = [AdamW(m.parameters(), lr=0.01, weight_decay=0.1) for m in (model, twin)]
    zeromean.centralize(optimizers[0], model, at="backward")
    zeromean.centralize(optimizers[1], twin)
    for _ in range(4):
        for part in range(3):  # accumulated
            x = batch()
            for m, optimizer in zip((model, twin), optimizers, strict=True):
                if part == 0:
                    optimizer.zero_grad()
                m(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        assert_same_weights(model, twin)
    supports("Driver", "gradient accumulation", "backward", "equal to centering in step")


def test_optimizer_that_steps_in_backward(supports: Supports) -> None:
    model = network()
    twin = copy.deepcopy(model)
    by_parameter = {p: AdamW([p], lr=0.01) for p in model.parameters()}
    for row in zeromean.explain(model).centered:  # before the hooks that step
        zeromean.centralize(by_parameter[row.parameter], model, at="backward")

    def step(parameter: Tensor) -> None:
        by_parameter[parameter].step()  # type: ignore[index]
        by_parameter[parameter].zero_grad()  # type: ignore[index]

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    plain = AdamW(twin.parameters(), lr=0.01)
    zeromean.centralize(plain, twin)
    for _ in range(3):
        x = batch()
        model(x).square().mean().backward()
        plain.zero_grad()
        twin(x).square().mean().backward()
        plain.step()
        assert_same_weights(model, twin)
    supports("Driver", "optimizer in backward", "backward", "equal to a plain loop with GC in step")


def test_stepping_hook_may_be_registered_first() -> None:
    model = nn.Linear(6, 4).double()
    optimizers = {p: SGD([p], lr=0.1) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    zeromean.centralize(optimizers[model.weight], model, at="backward")
    before = model.weight.detach().mean(1)
    for _ in range(3):
        model(torch.randn(8, 6).double()).square().mean().backward()
    torch.testing.assert_close(model.weight.detach().mean(1), before)


def test_parameters_added_later_are_centered_from_their_first_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).double()
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at="backward")
    model.append(nn.Linear(4, 3).double())
    optimizer.add_param_group({"params": model[1].parameters()})
    before = [layer.weight.detach().mean(1) for layer in model]
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 4).double()).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close([layer.weight.detach().mean(1) for layer in model], before)


@pytest.mark.filterwarnings("error")
def test_warning_as_error_leaves_no_hooks() -> None:
    model = nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["zeromean"] = "at=gradient"
    with pytest.raises(zeromean.ZeromeanWarning, match="centralized with at=gradient"):
        zeromean.centralize(optimizer, model, at="backward")
    assert not model.weight._post_accumulate_grad_hooks


def test_removed_parameter_loses_its_hook() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW([{"params": layer.parameters()} for layer in model])
    zeromean.centralize(optimizer, model, at="backward")
    optimizer.param_groups.pop()
    optimizer.step()
    (model(torch.ones(1, 6)) * torch.tensor([1.0, 2.0])).sum().backward()
    assert model[0].weight.grad.mean(1).abs().max() < 1e-6
    assert model[1].weight.grad.mean(1).abs().max() > 1e-3


def test_deleted_optimizer_removes_its_hooks() -> None:
    model = nn.Linear(6, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    zeromean.centralize(optimizer, model, at="backward")
    del optimizer
    gc.collect()
    model(torch.arange(6.0)).sum().backward()
    assert model.weight.grad.mean(1).abs().min() > 1


def test_removed_handle_leaves_gradients_unchanged() -> None:
    model = network()
    twin = copy.deepcopy(model)
    zeromean.centralize(SGD(model.parameters(), lr=0.1), model, at="backward").remove()
    x = batch()
    for m in (model, twin):
        m(x).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_clipping_comes_after_centering(supports: Supports) -> None:
    model = nn.Linear(6, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at="backward")
    x = torch.randn(8, 6) + 1
    model(x).sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    centered = zeromean.center(x.sum(0).expand(4, 6), 1)
    wanted = torch.cat([centered.flatten(), torch.full((4,), 8.0)]).norm()
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close(model.weight.grad, centered * (0.5 / wanted))
    supports("Number", "clip_grad_norm_ before the step", "backward", "clips the centered gradient")


def test_coupled_decay_raises_now_or_at_a_later_step() -> None:
    model = network()
    with pytest.raises(zeromean.ZeromeanError, match=r"decay, which SGD adds .*decay=0\.1\)"):
        zeromean.centralize(SGD(model.parameters(), lr=0.1, weight_decay=0.1), model, at="backward")
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at="backward")
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(zeromean.ZeromeanError, match="coupled"):
        optimizer.step()


def test_expanded_gradient_from_outside_backward_is_refused() -> None:
    model = nn.Linear(6, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at="backward")
    model.weight.grad = torch.ones(1, 6).expand(4, 6)
    with pytest.raises(zeromean.ZeromeanError, match="the gradient of weight is expanded"):
        optimizer.step()
    model.weight.grad = torch.ones(4, 6)
    optimizer.step()


def test_frozen_parameter_is_hooked_when_unfrozen() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)).double()
    model[0].requires_grad_(False)
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at="backward")
    means = [layer.weight.detach().mean(1) for layer in model]
    for frozen in (True, False, False):
        model[0].requires_grad_(not frozen)
        optimizer.zero_grad()
        model(torch.randn(8, 6).double()).square().mean().backward()
        if not frozen:
            hooked = model[0].weight.grad.mean(1).abs().max() < 1e-12
        optimizer.step()
    assert hooked  # since the step before, which centered without a hook
    torch.testing.assert_close([layer.weight.detach().mean(1) for layer in model], means)


def test_closure_needs_no_wrapping() -> None:
    model = nn.Linear(6, 2).double()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    zeromean.centralize(optimizer, model, at="backward")
    before = model.weight.detach().mean(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6).double()).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    torch.testing.assert_close(model.weight.detach().mean(1), before)

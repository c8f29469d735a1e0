"""``zeromean.check`` on optimizers that center and on others."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zeromean
from zeromean import optim

check = partial(zeromean.check, loss=F.mse_loss)
DROP_INS = ("SGD", "SGDW", "Adam", "AdamW", "Adagrad", "RMSprop", "RAdam")


def network() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6 * 36, 10),
        nn.Linear(10, 3),
    )


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(8, 4, 4, 4, dtype=dtype) + 1, torch.randn(8, 3, dtype=dtype)


def warmed(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Make two steps, so that the optimizer has state."""
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(model(batch()[0]), batch()[1]).backward()
        optimizer.step()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("at", ["gradient", "update", "backward"])
def test_centralized_step_is_centered(
    at: Any, make: Any, warm: bool, supports: Callable[..., None]
) -> None:
    model = network()
    optimizer = make(model.parameters(), lr=1e-2)
    assert not check(optimizer, model, batch()).ok
    zeromean.centralize(optimizer, model, at=at)
    if warm:
        warmed(model, optimizer)
    found = check(optimizer, model, batch())
    assert found.ok
    assert found.at == at
    assert [layer.name for layer in found] == ["0.weight", "5.weight", "6.weight"]
    assert "every layer is centered" in str(found)
    for layer in found:
        if at == "update":
            assert layer.mean_change < 1e-3
        else:
            assert layer.response < 1e-3
    supports("Check", "zeromean.centralize", at, "distinguished from the same optimizer without it")


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("name", DROP_INS)
def test_drop_in_step_is_centered(name: str, at: Any, supports: Callable[..., None]) -> None:
    model = network()
    optimizer = getattr(optim, name)(model, lr=1e-2, at=at)
    found = check(optimizer, model, batch())
    assert found.ok
    assert found.at == at
    plain = getattr(torch.optim, name.removesuffix("W") if name == "SGDW" else name)
    assert not check(plain(model.parameters(), lr=1e-2), model, batch()).ok
    supports("Check", "zeromean.optim", at, "distinguished from torch's optimizer of the same name")


def test_adaptive_steps_are_centered_at_one_place() -> None:
    model = network()
    for at, other in (("gradient", "mean_kept"), ("update", "gradient_centered")):
        found = check(optim.AdamW(model, lr=1e-2, at=at), model, batch())
        assert [getattr(layer, other) for layer in found] == [False] * 3


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_step_along_signs_that_are_all_equal_is_not_centered(target: float) -> None:
    model = nn.Linear(20, 1)
    pair = torch.rand(16, 20), torch.full((16, 1), target)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = F.binary_cross_entropy_with_logits
    assert not zeromean.check(optimizer, model, pair, loss=loss).ok
    zeromean.centralize(optimizer, model)
    assert zeromean.check(optimizer, model, pair, loss=loss).ok


def test_false_claim_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    handle = zeromean.centralize(optimizer, model)
    monkeypatch.setattr(type(handle._place), "before_step", lambda *args: None)
    found = check(optimizer, model, batch())
    assert not found.ok
    assert str(found).endswith("AdamW claims to center at gradient; 3 of 3 layers are NOT centered")


def test_ignored_use_gc_option_is_found(supports: Callable[..., None]) -> None:
    package = pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is optional")
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    pair = torch.randn(8, 6) + 1, torch.randn(8, 3)
    does = check(package.AdamP(model.parameters(), use_gc=True), model, pair)
    ignores = check(package.Lamb(model.parameters(), use_gc=True), model, pair)
    assert (does.ok, ignores.ok) == (True, False)
    assert does.at is None
    supports("Check", "another library's `use_gc=True`", "-", "one that acts, one that is ignored")


def test_originals_stay_unchanged() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    zeromean.centralize(optimizer, model, at="backward")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    warmed(model, optimizer)
    schedule.step()
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    chance = torch.get_rng_state()
    pair = batch()
    torch.set_rng_state(chance)
    assert check(optimizer, model, pair).ok
    assert torch.equal(torch.get_rng_state(), chance)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert all(torch.equal(p.grad, torch.full_like(p, 3.0)) for p in model.parameters())
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            assert torch.equal(value, state["state"][index][key])
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert model.training


class RandomDepth(nn.Module):
    """Scales its input by a random number."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (1 + self.draw())


# A copy of a bound method of NumPy's generator has a generator of its own.
def from_python() -> float:
    return random.random()


def from_numpy() -> float:
    return np.random.rand()


@pytest.mark.parametrize("draw", [from_python, from_numpy])
def test_networks_that_draw_numbers_outside_torch(draw: Callable[[], float]) -> None:
    model = nn.Sequential(nn.Linear(6, 5), RandomDepth(draw), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    before = random.getstate(), np.random.get_state()[2]
    assert check(optimizer, model, (torch.randn(8, 6) + 1, torch.randn(8, 3))).ok
    assert (random.getstate(), np.random.get_state()[2]) == before


def test_optimizer_with_required_closure() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    pair = torch.randn(8, 6) + 1, torch.randn(8, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=1)
    assert not check(optimizer, model, pair).ok
    zeromean.centralize(optimizer, model)
    assert check(optimizer, model, pair).ok


def test_keyword_inputs_and_embeddings() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4, padding_idx=1)
            self.linear = nn.Linear(4, 1)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.linear(self.embed(tokens).mean(1))

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    zeromean.centralize(optimizer, model, embeddings=True)
    found = check(optimizer, model, ({"tokens": torch.arange(12).view(4, 3) % 7}, torch.ones(4, 1)))
    assert found.ok
    assert [layer.name for layer in found] == ["embed.weight", "linear.weight"]


def test_optimizer_centralized_by_shapes() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(zeromean.ZeromeanWarning, match="Without a model"):
        zeromean.centralize(optimizer)
    assert check(optimizer, model, (torch.randn(8, 6) + 1, torch.randn(8, 3))).ok


@pytest.mark.parametrize("make", [optim.SGD, torch.optim.SGD])
def test_predicate_that_compares_modules(make: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))

    def layers(name: str, module: nn.Module) -> bool:
        return module is model[1]

    if make is optim.SGD:
        optimizer = make(model, lr=0.1, layers=layers)
    else:
        optimizer = make(model.parameters(), lr=0.1)
        zeromean.centralize(optimizer, model, layers=layers)
    found = check(optimizer, model, (torch.randn(8, 6) + 1, torch.randn(8, 3)))
    assert found.ok
    assert [layer.name for layer in found] == ["1.weight"]


def test_warnings_of_centralize_are_not_repeated() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    warmed(model, optimizer)
    with pytest.warns(zeromean.ZeromeanWarning, match=r"only shapes|momentum") as caught:
        zeromean.centralize(optimizer)
    assert len(caught) == 2
    check(optimizer, model, batch())  # a warning would be an error


@pytest.mark.parametrize(("start", "lr"), [(0.0, 1e-2), (0.1, 100.0)])
def test_step_larger_than_the_weights(start: float, lr: float) -> None:
    model = nn.Linear(60, 50)
    nn.init.normal_(model.weight, std=start)
    pair = torch.randn(8, 60), torch.randn(8, 50)
    assert check(optim.AdamW(model, lr=lr, at="update"), model, pair).ok
    assert not check(torch.optim.AdamW(model.parameters(), lr=lr), model, pair).ok


def test_frozen_layers_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    found = check(optim.SGD(model, lr=0.1), model, batch())
    assert [layer.name for layer in found] == ["5.weight", "6.weight"]
    assert found.ok


def test_undecidable_steps_are_undecided() -> None:
    model = nn.Linear(6, 3)
    optimizer = optim.AdamW(model, lr=0.0)
    found = check(optimizer, model, (torch.randn(8, 6), torch.randn(8, 3)))
    assert found[0].gradient_centered is None
    assert not found.ok
    assert "1 of 1 layers are undecided by this step" in str(found)
    half = nn.Linear(6, 3, dtype=torch.bfloat16)
    pair = torch.randn(8, 6).bfloat16(), torch.randn(8, 3).bfloat16()
    found = check(optim.AdamW(half, lr=1e-5, at="update"), half, pair)
    assert found[0].mean_kept is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(60, 50), nn.Tanh(), nn.Linear(50, 3)).to(dtype)
    pair = (torch.randn(8, 60) + 1).to(dtype), torch.randn(8, 3).to(dtype)
    assert check(optim.SGD(model, lr=1.0), model, pair).ok
    assert not check(torch.optim.SGD(model.parameters(), lr=1.0), model, pair).ok


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": None}, "the model is missing"),
        ({"batch": torch.ones(3)}, "the batch is Tensor"),
        ({"batch": (1, 2, 3)}, "the batch is tuple"),
        ({"optimizer": 3}, "the optimizer is of type int, not"),
        ({"model": nn.Linear(2, 2)}, "share no parameter"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], words: str) -> None:
    model = nn.Linear(3, 2)
    options: dict[str, Any] = {
        "optimizer": torch.optim.SGD(model.parameters()),
        "model": model,
        "batch": (torch.ones(2, 3), torch.ones(2, 2)),
    } | arguments
    with pytest.raises(zeromean.ZeromeanError) as caught:
        check(**options)
    assert words in str(caught.value)


def test_model_that_cannot_be_copied_raises() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.cache = model.weight * 2  # part of a graph
    with pytest.raises(zeromean.ZeromeanError, match="cannot be copied"):
        check(optimizer, model, (torch.ones(2, 3), torch.ones(2, 2)))


def test_nonfinite_step_is_undecided() -> None:
    model = nn.Linear(6, 3)
    optimizer = optim.AdamW(model, at="update")
    found = check(optimizer, model, (torch.full((8, 6), torch.nan), torch.randn(8, 3)))
    assert found[0].mean_kept is None
    assert found[0].gradient_centered is None
    assert "1 of 1 layers are undecided by this step" in str(found)


@pytest.mark.parametrize(
    ("loss", "frozen", "words"),
    [
        (lambda output, _: output, False, r"shape \(8, 3\)"),
        (lambda output, _: output.detach().sum(), False, "no graph"),
        (lambda output, _: 1.0, False, "float"),
        (nn.functional.mse_loss, True, "all is frozen"),
    ],
)
def test_invalid_loss_raises(loss: Any, frozen: bool, words: str) -> None:
    model = nn.Linear(6, 3).requires_grad_(not frozen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pair = torch.randn(8, 6), torch.randn(8, 3)
    with pytest.raises(zeromean.ZeromeanError, match=words):
        zeromean.check(optimizer, model, pair, loss=loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vanished_gradient_entries_warn(dtype: torch.dtype) -> None:
    model = nn.Linear(64, 4, bias=False).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    pair = 1 + 1e-6 * torch.randn(8, 64).to(dtype), None
    found = zeromean.check(optimizer, model, pair, loss=lambda output, _: output.sum())
    assert found[0].vanished == 1  # what centering would do causes no warning
    zeromean.centralize(optimizer, model)
    with pytest.warns(zeromean.ZeromeanWarning, match="100% of the nonzero gradient entries of w"):
        found = zeromean.check(optimizer, model, pair, loss=lambda output, _: output.sum())
    assert "100.0%" in str(found)


def test_result_has_a_short_repr_and_html() -> None:
    model = nn.Linear(6, 3)
    found = check(optim.SGD(model, lr=0.1), model, (torch.randn(8, 6) + 1, torch.randn(8, 3)))
    assert repr(found) == "Check(SGD claims to center at gradient; every layer is centered)"
    assert found._repr_html_().endswith("every layer is centered</p>")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_wrappers_are_checked_by_inner_optimizer(at: Any) -> None:
    model = nn.Linear(6, 3)
    batch = torch.randn(8, 6) + 1, torch.randn(8, 3)
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    plain = optim.Lookahead(inner)
    assert not check(plain, model, batch).ok
    zeromean.centralize(plain, model, at=at)
    assert zeromean.status(inner).attached == zeromean.status(plain).attached
    for optimizer in (plain, optim.Ranger(model, at=at)):
        assert zeromean.status(optimizer).centered == 1
        found = check(optimizer, model, batch)
        assert found.ok
        assert found.at == at
        assert found.optimizer == type(optimizer).__name__

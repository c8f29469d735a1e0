"""All contestants do the same work, and those that claim GC do it."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from zeromean import center
from zeromean.bench.contestants import CONTESTANTS
from zeromean.bench.contestants.contestant import Absent, Contestant
from zeromean.bench.tensors import TENSORS
from zeromean.bench.work import OPTIMIZERS, Work

STEPS = 4
SHAPES = [(5, 3), (7,), (4, 2, 3, 3), (1, 6), (3, 50)]
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}
# What its own code does not have.
LACKING = {("pytorch_optimizer", "sgd"), ("pytorch_optimizer, use_gc", "sgd")}


def work(optimizer: str) -> Work:
    hyper = OPTIMIZERS[optimizer]
    if "eps" in hyper.options:  # it stands in two usual places: too small to matter in either
        hyper = replace(hyper, options={**hyper.options, "eps": 1e-16})
    return Work(hyper, SHAPES, torch.device("cpu"))


def projected(x: Tensor) -> Tensor:
    return center(x, tuple(range(1, x.ndim))) if x.ndim > 1 else x


def reference(optimizer: str, centers: str | None) -> list[Tensor]:
    """The same steps in float64 by torch's for-loop, centered by hand."""
    hyper, weights = work(optimizer).hyper, [w.double() for w in work(optimizer).weights()]
    made = getattr(torch.optim, hyper.name)(weights, **hyper.options, foreach=False)
    for weight, gradient in zip(weights, work(optimizer).gradients(), strict=True):
        given = gradient.double()
        weight.grad = projected(given) if centers == "gradient" else given
    for _ in range(STEPS):
        before = [weight.clone() for weight in weights]
        made.step()
        if centers == "update":
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old + projected(weight - old))
    return weights


def distance(weights: list[Tensor], others: list[Tensor]) -> float:
    return max(
        float((a - b).abs().max())
        for a, b in zip(weights, others, strict=True)
        if a.ndim > 1  # the others have no mean to lose
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_contestant_ends_where_the_reference_does(name: str, optimizer: str) -> None:
    contestant = BY_NAME[name]
    if name.startswith("optax"):
        pytest.importorskip("optax", reason="optax is optional: it brings jax")
    if (name, optimizer) in LACKING:
        with pytest.raises(Absent, match="has no GC"):
            contestant.start(work(optimizer))
        return
    running = contestant.start(work(optimizer))
    for _ in range(STEPS):
        running.step()
    weights = running.weights()
    expected = reference(optimizer, contestant.centers)
    moved = distance(expected, [weight.double() for weight in work(optimizer).weights()])
    for weight, aim in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.double(), aim, rtol=0, atol=1e-3 * moved)
    other = reference(optimizer, None if contestant.centers else "gradient")
    assert distance(expected, other) > 0.1 * moved  # the two can be told apart


@pytest.mark.parametrize("module", ["optax", "jax", "pytorch_optimizer"])
def test_a_package_that_is_not_installed_is_said_to_be_so(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    name = "pytorch_optimizer" if module == "pytorch_optimizer" else "optax, jitted"
    with pytest.raises(Absent, match=r"^not installed$"):
        BY_NAME[name].start(work("adamw"))


@pytest.mark.parametrize("contestant", CONTESTANTS[:8], ids=lambda one: one.name)
def test_contestants_do_not_share_their_tensors(contestant: Contestant) -> None:
    one, other = contestant.start(work("sgd")), contestant.start(work("sgd"))
    one.step()
    assert distance(one.weights(), other.weights()) > 0


def test_a_device_that_an_implementation_lacks_is_an_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("fused=True requires supported devices")

    monkeypatch.setattr(torch.optim, "SGD", refuse)
    with pytest.raises(Absent, match="torch has none on cpu"):
        BY_NAME["torch fused"].start(work("sgd"))


def test_the_sets_of_tensors_are_those_of_the_models() -> None:
    counts = {name: (len(one.shapes()), one.count()) for name, one in TENSORS.items()}
    assert counts == {
        "resnet50": (161, 25_557_032),
        "gpt2": (148, 124_439_808),
        "tiny": (300, 3_600),
    }
    assert TENSORS["tiny"].vectors() == 1200


def test_work_is_the_same_whenever_it_is_asked_for() -> None:
    one = work("sgd")
    for a, b in zip(one.weights(), replace(one).weights(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.weights()[0], one.gradients()[0])

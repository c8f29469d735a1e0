"""All baselines make the same step, with centering if they claim it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from zeromean import center
from zeromean.bench.baselines import BASELINES, OPTIMIZERS, Baseline, Unavailable, Work
from zeromean.bench.tensors import TENSORS

STEPS = 4
SHAPES = [(5, 3), (7,), (4, 2, 3, 3), (1, 6), (3, 50)]
BY_NAME = {baseline.name: baseline for baseline in BASELINES}
WITHOUT_GC = {("pytorch_optimizer", "sgd"), ("pytorch_optimizer, use_gc", "sgd")}


def work(optimizer: str) -> Work:
    hyper = OPTIMIZERS[optimizer]
    if "eps" in hyper.options:  # so small that its place in the formula does not matter
        hyper = replace(hyper, options={**hyper.options, "eps": 1e-16})
    return Work(hyper, SHAPES, torch.device("cpu"))


def projected(x: Tensor) -> Tensor:
    return center(x, tuple(range(1, x.ndim))) if x.ndim > 1 else x


def reference(optimizer: str, centers: str | None) -> list[Tensor]:
    """The same steps in float64 by torch's for-loop, centered explicitly."""
    hyper, weights = work(optimizer).hyper, [w.double() for w in work(optimizer).weights()]
    optimizer_ = getattr(torch.optim, hyper.name)(weights, **hyper.options, foreach=False)
    for weight, gradient in zip(weights, work(optimizer).gradients(), strict=True):
        wide = gradient.double()
        weight.grad = projected(wide) if centers == "gradient" else wide
    for _ in range(STEPS):
        before = [weight.clone() for weight in weights]
        optimizer_.step()
        if centers == "update":
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old + projected(weight - old))
    return weights


def distance(weights: list[Tensor], others: list[Tensor]) -> float:
    return max(
        float((a - b).abs().max())
        for a, b in zip(weights, others, strict=True)
        if a.ndim > 1  # the others are not centered
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", BY_NAME)
def test_baseline_equals_reference(name: str, optimizer: str) -> None:
    baseline = BY_NAME[name]
    if name.startswith("optax"):
        pytest.importorskip("optax", reason="optax is optional")
    if (name, optimizer) in WITHOUT_GC:
        with pytest.raises(Unavailable, match="has no GC"):
            baseline.start(work(optimizer))
        return
    running = baseline.start(work(optimizer))
    for _ in range(STEPS):
        running.step()
    weights = running.weights()
    expected = reference(optimizer, baseline.centers)
    moved = distance(expected, [weight.double() for weight in work(optimizer).weights()])
    for weight, target in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.double(), target, rtol=0, atol=1e-3 * moved)
    other = reference(optimizer, None if baseline.centers else "gradient")
    assert distance(expected, other) > 0.1 * moved  # the two differ


@pytest.mark.parametrize("module", ["optax", "jax", "pytorch_optimizer"])
def test_missing_package_is_unavailable(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    name = "pytorch_optimizer" if module == "pytorch_optimizer" else "optax, jitted"
    with pytest.raises(Unavailable, match=r"^not installed$"):
        BY_NAME[name].start(work("adamw"))


def test_damaged_package_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optax.py").write_text("raise RuntimeError('jaxlib is older than jax')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "optax", raising=False)
    monkeypatch.setitem(sys.modules, "jax", ModuleType("jax"))
    with pytest.raises(Unavailable, match=r"^cannot be imported$"):
        BY_NAME["optax, jitted"].start(work("adamw"))


@pytest.mark.parametrize("baseline", BASELINES[:11], ids=lambda one: one.name)
def test_baselines_share_no_tensors(baseline: Baseline) -> None:
    one, other = baseline.start(work("sgd")), baseline.start(work("sgd"))
    one.step()
    assert distance(one.weights(), other.weights()) > 0


def test_unsupported_device_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("fused=True requires supported devices")

    monkeypatch.setattr(torch.optim, "SGD", refuse)
    with pytest.raises(Unavailable, match="not supported on cpu"):
        BY_NAME["torch fused"].start(work("sgd"))


def test_tensor_sets_match_the_models() -> None:
    counts = {name: (len(one.shapes), one.parameters()) for name, one in TENSORS.items()}
    assert counts == {
        "resnet50": (161, 25_557_032),
        "gpt2": (148, 124_439_808),
        "tiny": (300, 3_600),
    }
    assert TENSORS["tiny"].vectors() == 1200


def test_work_is_reproducible() -> None:
    one = work("sgd")
    for a, b in zip(one.weights(), replace(one).weights(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.weights()[0], one.gradients()[0])

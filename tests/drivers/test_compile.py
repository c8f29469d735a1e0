"""Test that torch.compile of the model, of the step, or of both gives the same numbers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.optim import SGD, Adam, AdamW

import zeromean
from zeromean import optim

Say = Callable[[str, str, str, str], None]

# The compiler warns about calls inside torch.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: AdamW(p, lr=0.01),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).double()  # fmt: skip


def train(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    step: Callable[..., Any],
    closures: bool = False,
) -> None:
    for number in range(5):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64)

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        if closures:
            step(closure)
        else:
            closure()
            step()


def check(name: str, at: Any, backend: str, what: str, closures: bool = False) -> None:
    model = network()
    reference, without = copy.deepcopy(model), copy.deepcopy(model)
    optimizer, plain, other = (
        OPTIMIZERS[name](m.parameters()) for m in (model, reference, without)
    )
    zeromean.centralize(optimizer, model, at=at)
    zeromean.centralize(plain, reference, at=at)
    forward = torch.compile(model, backend=backend) if "model" in what else model
    step = torch.compile(optimizer.step, backend=backend) if "step" in what else optimizer.step
    train(forward, optimizer, step, closures)
    train(reference, plain, plain.step, closures)
    train(without, other, other.step, closures)
    # torch's own compiled Adam corrects its bias in float32.
    tolerance = {} if name == "SGD" or "step" not in what else {"rtol": 1e-3, "atol": 1e-5}
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)
    assert (model[0].weight - without[0].weight).abs().max() > 1e-3


def compiled_cases() -> Iterator[Any]:
    """Yield every combination; each part once by itself, and both for each optimizer, are fast."""
    for name, at, backend, what in itertools.product(
        OPTIMIZERS,
        ("gradient", "update"),
        ("eager", "aot_eager"),
        ("model", "step", "model and step"),
    ):
        fast = name == "SGD" if backend == "eager" else what == "model and step"
        yield pytest.param(name, at, backend, what, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "at", "backend", "what"), [*compiled_cases()])
def test_compiled_equals_eager(name: str, at: Any, backend: str, what: str, supports: Say) -> None:
    check(name, at, backend, what)
    supports("Driver", f"torch.compile of the {what}, {backend}", at, "equal to the eager run")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_compiled_step_with_a_closure_equals_eager(at: Any, supports: Say) -> None:
    check("SGD", at, "aot_eager", "step", closures=True)
    supports("Driver", "torch.compile of a step with a closure", at, "equal to the eager run")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_inductor_equals_eager(at: Any, supports: Say) -> None:
    check("AdamW", at, "inductor", "model and step")
    supports("Driver", "torch.compile of both, inductor", at, "equal to the eager run")


@pytest.mark.parametrize("whose", ["compiled", "plain"])
def test_compiled_model_has_the_same_plan(whose: str) -> None:
    model = network()
    wrapped: Any = torch.compile(model, backend="eager")
    optimizer = SGD(wrapped.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, wrapped if whose == "compiled" else model)
    assert [row.axes for row in handle.plan.centered] == [(1, 2, 3), (0, 2, 3), (1,)]
    assert zeromean.status(optimizer).centered == 3


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_compiled_step_in_two_passes_equals_eager(at: Any, backend: str) -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer, twin = (SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, other))
    zeromean.centralize(optimizer, model, at=at, fused=False)
    zeromean.centralize(twin, other, at=at, fused=False)
    train(model, optimizer, torch.compile(optimizer.step, backend=backend))
    train(other, twin, twin.step)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


DROP_INS = ["SGD", "SGDW", "Adam", "AdamW", "Adagrad", "RMSprop", "RAdam", "Ranger", "Lookahead"]


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "eager") for name in DROP_INS),
        ("RMSprop", "aot_eager"),
        ("RMSprop", "inductor"),
        *(
            pytest.param(name, "inductor", marks=pytest.mark.slow)
            for name in DROP_INS
            if name != "RMSprop"
        ),
    ],
)
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_compiled_drop_in_equals_eager(name: str, backend: str, at: Any) -> None:
    model = network()
    other = copy.deepcopy(model)

    def make(m: nn.Module) -> torch.optim.Optimizer:
        if name == "Lookahead":
            return optim.Lookahead(optim.RMSprop(m, lr=0.01, at=at), k=2)
        return getattr(optim, name)(m, lr=0.1, at=at)

    optimizer, twin = make(model), make(other)
    train(model, optimizer, torch.compile(optimizer.step, backend=backend))
    train(other, twin, twin.step)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_parameters_that_torch_steps_are_compiled_once_or_twice() -> None:
    """The second step finds a momentum; torch itself compiles again then."""
    weights = [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3, 5).half())]
    optimizer = SGD(weights, lr=0.1, momentum=0.9)
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes"):
        handle = zeromean.centralize(optimizer, at="update")
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    compiled = []
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        step()
        compiled.append(counter.frame_count)
    assert compiled == [1, 2, 2, 2, 2]
    assert "torch steps 1 of 2" in handle.way.reason

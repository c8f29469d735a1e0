"""The formulas and their closed-form gradients: against autograd, gradcheck, Propositions 1, 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reparam_layers import LAYERS, METHODS, any_layer, by_hand, vectors_of
from torch import Tensor, nn

import zeromean
from zeromean import FanIn
from zeromean.reparam.formulas import Formula
from zeromean.reparam.normalize import Normalization

Say = Any
FORMULAS = {
    "wn": Formula(centers=False),
    "cwn": Formula(centers=True),
    "ws": Formula(centers=True, eps=1e-5),
}


def originals(layer: nn.Module) -> tuple[Tensor, Tensor]:
    found: Any = layer.parametrizations.weight  # type: ignore[union-attr]
    return found.original0, found.original1


def check_against_autograd(
    make: Any, shape: tuple[int, ...], method: str, gain: float, keep: bool = False
) -> None:
    layer = make().double()
    vectors = vectors_of(layer, shape)
    old = layer.weight.detach().clone()
    zeromean.reparametrize(layer, method, scale="learned", mean="keep" if keep else "drop")
    g, v = originals(layer)
    with torch.no_grad():
        g.mul_(gain)
    grad = torch.randn_like(v)
    weight = layer.weight
    weight.backward(grad)
    twin_g, twin_v = g.detach().clone().requires_grad_(), v.detach().clone().requires_grad_()
    expected = by_hand(twin_v, twin_g, vectors, method)
    if keep:
        for mask in vectors:
            expected = expected + mask * old[mask].mean()
    expected.backward(grad)
    torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(g.grad, twin_g.grad)
    torch.testing.assert_close(v.grad, twin_v.grad)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gain", [1.0, -0.3, 20.0])
def test_value_and_gradient_equal_the_formula(
    name: str,
    method: str,
    gain: float,
    backend: str,
    supports: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if backend == "native":  # a layout that the library does not serve would use the reference
        monkeypatch.delattr("zeromean.reparam.normalize.take_apart")
    check_against_autograd(*LAYERS[name], method, gain)
    supports("Weights", f"{method} of {name}", "-", "equal to the formula by autograd, float64")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["cwn", "ws"])
def test_mean_keep_is_an_offset(name: str, method: str, backend: str) -> None:
    check_against_autograd(*LAYERS[name], method, 1.5, keep=True)


@settings(max_examples=60)
@given(layer=any_layer(), method=st.sampled_from(METHODS), seed=st.integers(0, 2**31))
def test_random_shapes_groups_and_transposed_layers(layer: Any, method: str, seed: int) -> None:
    torch.manual_seed(seed)
    check_against_autograd(*layer, method, 0.7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0, "learned"])
@pytest.mark.parametrize(
    ("shape", "fan_in"),
    [
        ((4, 5), FanIn((1,))),
        ((5, 4), FanIn((0,))),
        ((4, 3, 2), FanIn((0, 2), groups=2)),
        ((3, 2, 2, 2), FanIn((1, 2, 3))),
    ],
    ids=str,
)
def test_gradcheck_once_and_twice(
    shape: tuple[int, ...], fan_in: FanIn, gain: Any, method: str, backend: str
) -> None:
    v = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if gain == "learned":
        one_each = zeromean.projection.one_each(shape, fan_in)  # type: ignore[attr-defined]
        g = torch.randn(one_each, dtype=torch.float64, requires_grad=True)

        def weight(v: Tensor, g: Tensor) -> Tensor:
            return Normalization(FORMULAS[method], fan_in)(v, g)

        assert torch.autograd.gradcheck(weight, (v, g))
        assert torch.autograd.gradgradcheck(weight, (v, g))
    else:

        def scaled(v: Tensor) -> Tensor:
            return Normalization(FORMULAS[method], fan_in)(v, gain)

        assert torch.autograd.gradcheck(scaled, (v,))
        assert torch.autograd.gradgradcheck(scaled, (v,))


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 40),
    mean=st.floats(-5, 5),
    deviation=st.floats(0.1, 3),
)
def test_responses_have_zero_mean_and_input_variance(
    seed: int, size: int, mean: float, deviation: float
) -> None:
    """z = u h of h ~ N(mean 1, deviation^2 I): mean u 1 mean = 0, variance deviation^2 u u."""
    torch.manual_seed(seed)
    layer = zeromean.nn.CWNLinear(size, 6, bias=False).double()
    # The two moments are exact functions of u, so no sampling is needed.
    expected = layer(torch.full((1, size), mean, dtype=torch.float64))
    torch.testing.assert_close(expected, torch.zeros(1, 6).double(), rtol=0, atol=1e-12)
    variances = deviation**2 * layer.weight.square().sum(1)
    torch.testing.assert_close(variances, torch.full((6,), deviation**2).double())


def test_proposition_1_on_samples() -> None:
    layer = zeromean.nn.CWNLinear(50, 4, bias=False)
    z = layer(3 + 2 * torch.randn(20000, 50)).detach()
    assert z.mean(0).abs().max() < 0.1
    assert (z.var(0) - 4).abs().max() < 0.3


@settings(max_examples=60)
@given(layer=any_layer(), seed=st.integers(0, 2**31))
def test_gradient_is_zero_mean_and_orthogonal(layer: Any, seed: int) -> None:
    torch.manual_seed(seed)
    make, shape = layer
    module = make().double()
    vectors = vectors_of(module, shape)
    zeromean.reparametrize(module, "cwn")
    _, v = originals(module)
    weight = module.weight
    weight.backward(torch.randn_like(v))
    assert v.grad is not None
    for mask in vectors:
        x = v.detach()[mask] - v.detach()[mask].mean()
        rounding = 1e-13 * float(mask.sum() / x.norm() * weight.detach()[mask].norm())
        assert abs(float(v.grad[mask].sum())) < rounding
        assert abs(float(v.grad[mask] @ x / x.norm())) < rounding


# --- types and edges ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(6, 40), (9, 4, 3, 3)], ids=str)
def test_low_precision_is_computed_in_float32(
    shape: tuple[int, ...], method: str, dtype: torch.dtype, backend: str, supports: Say
) -> None:
    """The result is rounded once, so it is as close to float64 as the type allows."""
    fan_in = FanIn(tuple(range(1, len(shape))))
    v, grad = (3 + torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)
    g = torch.rand(shape[0], *(1 for _ in shape[1:])).to(dtype)
    results = []
    for kind in (dtype, torch.float64):
        leaves = [x.detach().to(kind).requires_grad_() for x in (v, g)]
        weight = Normalization(FORMULAS[method], fan_in)(leaves[0], leaves[1])
        weight.backward(grad.to(kind))
        assert weight.dtype == kind
        results.append([weight.detach(), *(leaf.grad for leaf in leaves)])
    eps = torch.finfo(dtype).eps
    for low, exact in zip(*results, strict=True):
        assert low is not None
        assert exact is not None
        atol = max(eps, 2e-6) * float(exact.abs().max())
        torch.testing.assert_close(low.double(), exact, rtol=eps, atol=atol)
    supports("Weights", f"{method} in {str(dtype)[6:]}", "-", "as near to float64 as its rounding")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e-30])
@pytest.mark.parametrize("shape", [(3, 7), (3, 1000), (3, 5, 3, 3)], ids=str)
def test_undirected_vector_has_finite_weight_and_gradient(
    shape: tuple[int, ...], value: float, dtype: torch.dtype, method: str, backend: str
) -> None:
    fan_in = FanIn(tuple(range(1, len(shape))))
    v = torch.full(shape, value).to(dtype).requires_grad_()
    g = torch.full((3, *(1 for _ in shape[1:])), 2.0).to(dtype).requires_grad_()
    weight = Normalization(FORMULAS[method], fan_in)(v, g)
    grad = torch.randn(shape).to(dtype)
    weight.backward(grad)
    assert v.grad is not None
    assert weight.isfinite().all()
    assert v.grad.isfinite().all()
    assert g.grad is not None
    assert g.grad.isfinite().all()
    if method == "cwn" or (method == "wn" and value == 0):
        assert weight.abs().max() <= 1e-5 * abs(value)
        # It counts as 1 long, so that a step gives it a direction.
        wide = grad.float() if dtype is torch.bfloat16 else grad
        expected = 2 * (zeromean.center(wide, fan_in.axes) if method == "cwn" else wide)
        torch.testing.assert_close(v.grad, expected.to(dtype), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_proxy_with_large_mean_keeps_its_direction(method: str, backend: str) -> None:
    """A mean of a thousand times the deviation costs three digits."""
    x = torch.randn(4, 256, dtype=torch.float64)
    v = (x + 1000).float()
    weight = Normalization(FORMULAS[method], FanIn((1,)))(v, 1.0)
    exact = Normalization(FORMULAS[method], FanIn((1,)))(v.double(), 1.0)
    torch.testing.assert_close(weight.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded"])
def test_gradients_of_any_memory_layout(layout: str, backend: str) -> None:
    v = torch.randn(6, 6, requires_grad=True)
    grad = {
        "strided": torch.randn(6, 12)[:, ::2],
        "transposed": torch.randn(6, 6).T,
        "expanded": torch.randn(6, 1).expand(6, 6),
    }[layout]
    results = []
    for g in (grad, grad.clone(memory_format=torch.contiguous_format)):
        v.grad = None
        Normalization(FORMULAS["cwn"], FanIn((1,)))(v, 1.5).backward(g)
        results.append(v.grad)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("train_v", "train_g"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_frozen_originals_get_no_gradient(train_v: bool, train_g: bool, backend: str) -> None:
    v = torch.randn(4, 6, requires_grad=train_v)
    g = torch.ones(4, 1, requires_grad=train_g)
    weight = Normalization(FORMULAS["cwn"], FanIn((1,)))(v, g)
    assert weight.requires_grad == (train_v or train_g)
    if weight.requires_grad:
        weight.square().sum().backward()
    assert (v.grad is not None) == train_v
    assert (g.grad is not None) == train_g


# Forward-mode derivatives let torch compile some of its own formulas.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("method", METHODS)
def test_function_transforms(method: str, supports: Say) -> None:
    v = torch.randn(3, 4, 5, dtype=torch.float64)
    g = torch.rand(4, 1, dtype=torch.float64)

    def weight(v: Tensor) -> Tensor:
        return Normalization(FORMULAS[method], FanIn((1,)))(v, g)

    torch.testing.assert_close(torch.func.vmap(weight)(v), torch.stack([weight(x) for x in v]))
    forward, reverse = torch.func.jacfwd(weight)(v[0]), torch.func.jacrev(weight)(v[0])
    torch.testing.assert_close(forward, reverse)

    def loss(v: Tensor) -> Tensor:
        return weight(v).sin().sum()

    hessian = torch.autograd.functional.hessian(loss, v[0])  # by the closed-form gradient
    torch.testing.assert_close(torch.func.hessian(loss)(v[0]), hessian)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(v[0], v[1])
        tangent = torch.autograd.forward_ad.unpack_dual(weight(dual)).tangent
    torch.testing.assert_close(tangent, torch.einsum("ijkl,kl->ij", reverse, v[1]))
    supports("Weights", f"{method} under torch.func", "-", "vmap, jacfwd, jacrev, hessian agree")


@pytest.mark.parametrize("method", METHODS)
def test_batched_gradients(method: str, backend: str) -> None:
    v = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weight = Normalization(FORMULAS[method], FanIn((1,)))(v, 1.5)
    grads = torch.randn(3, 4, 5, dtype=torch.float64)

    def backward(grad: Tensor, **options: bool) -> Tensor:
        return torch.autograd.grad(weight, v, grad, retain_graph=True, **options)[0]

    expected = torch.stack([backward(grad) for grad in grads])
    torch.testing.assert_close(backward(grads, is_grads_batched=True), expected)
    torch.testing.assert_close(torch.func.vmap(backward)(grads), expected)


@pytest.mark.parametrize("method", METHODS)
def test_default_device_does_not_matter(method: str, backend: str) -> None:
    """Kernels write to memory on the weight's device."""
    layer = nn.Linear(6, 4)
    zeromean.reparametrize(layer, method)
    with torch.device("meta"):
        weight = layer.weight
        weight.backward(torch.ones(4, 6, device="cpu"))
    assert weight.device == layer.bias.device
    assert torch.equal(weight, layer.weight)


@pytest.mark.parametrize("eps", [1e-60, 1e-320])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_tiny_eps_stays_finite(backend: str, dtype: torch.dtype, eps: float) -> None:
    v = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    weight = Normalization(Formula(True, eps), FanIn((1,)))(v, 1.0)
    weight.backward(torch.randn(2, 3, dtype=dtype))
    assert v.grad is not None
    assert not weight.any()
    assert v.grad.isfinite().all()

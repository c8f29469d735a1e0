"""Sharpness of quadratic losses with given Hessians, definite and indefinite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zeromean import ZeromeanError, center
from zeromean.diagnose import sharpness

Supports = Callable[[str, str, str, str], None]


class Quadratic(nn.Module):
    """w^T H w / 2 of a Linear's weight (and its bias, where H is large enough)."""

    def __init__(self, hessian: Tensor, out: int, m: int, bias: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(m, out, bias=bias, dtype=hessian.dtype)
        self.hessian = hessian

    def forward(self, scale: Tensor) -> Tensor:
        w = torch.cat([parameter.flatten() for parameter in self.layer.parameters()])
        return 0.5 * (w @ self.hessian @ w) * scale.mean()


def symmetric(values: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


def projection(out: int, m: int, bias: bool = False) -> Tensor:
    """P as a matrix over the flat parameters."""
    block = center(torch.eye(m, dtype=torch.float64), axes=0)
    blocks = [block] * out + ([torch.eye(out, dtype=torch.float64)] if bias else [])
    return torch.block_diag(*blocks)


def measured(model: nn.Module, **options: object) -> tuple[float, float, float]:
    batch = torch.ones(4, dtype=torch.float64), None
    found = sharpness(model, batch, loss=lambda value, _: value, **options)
    return found.hessian_norm, found.projected_norm, found.restricted_max


def expected(hessian: Tensor, p: Tensor) -> tuple[float, float, float]:
    return (
        float(torch.linalg.matrix_norm(hessian, 2)),
        float(torch.linalg.matrix_norm(p @ hessian, 2)),
        float(torch.linalg.eigvalsh(p @ hessian @ p)[-1]),
    )


@settings(max_examples=40)
@given(
    out=st.integers(1, 3),
    m=st.integers(2, 5),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
    definite=st.booleans(),
)
def test_norms_of_a_given_hessian(out: int, m: int, bias: bool, seed: int, definite: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=out * m + out * bias)
    hessian = symmetric(list(abs(values) if definite else values), seed)
    found = measured(Quadratic(hessian, out, m, bias))
    assert found == pytest.approx(expected(hessian, projection(out, m, bias)), rel=1e-8)
    assert found[1] <= found[0] * (1 + 1e-12)  # Proposition 4.2
    if definite:
        assert found[2] <= found[0] * (1 + 1e-12)


@pytest.mark.parametrize("least", [0.1, -60.0])
def test_lanczos_equals_a_dense_matrix_of_size_100(least: float) -> None:
    """Larger than what is computed densely; if indefinite, the norm is the negative end's."""
    values = [*np.linspace(0.1, 20, 98), 50.0, least]
    hessian = symmetric(values)
    found = measured(Quadratic(hessian, 10, 10), tolerance=1e-10)
    assert found == pytest.approx(expected(hessian, projection(10, 10)), rel=1e-6)


def test_restricted_maximum_of_indefinite_hessian(supports: Supports) -> None:
    supports("Diagnostic", "sharpness", "-", "quadratic losses of chosen Hessians, indefinite too")
    # Where every curvature is negative, PHP still has 0 along e, which P takes away.
    hessian = symmetric([-1.0, -2.0, -3.0, -4.0])
    norm, projected, restricted = measured(Quadratic(hessian, 1, 4))
    assert norm == pytest.approx(4.0)
    assert projected <= norm
    assert restricted == pytest.approx(0.0, abs=1e-12)
    # The magnitude of a negative end counts for the norm, not for the largest eigenvalue.
    e = torch.full((4, 1), 0.5, dtype=torch.float64)
    u = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64) / 2
    hessian = -4 * u @ u.T + 2 * e @ e.T + 0.5 * (e @ u.T + u @ e.T)
    found = measured(Quadratic(hessian, 1, 4))
    assert found == pytest.approx(expected(hessian, projection(1, 4)), abs=1e-9)
    assert found[0] > 4
    assert found[2] == pytest.approx(0.0, abs=1e-12)


def test_batches_are_weighted_by_their_samples() -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    x = torch.randn(7, 3, dtype=torch.float64)
    loss = lambda z, _: z.square().mean()  # noqa: E731
    whole = sharpness(model, (x, None), loss=loss)
    parts = sharpness(model, [(x[:2], None), (x[2:], None)], loss=loss)
    hessian = 2 * x.T @ x / 7
    assert whole.hessian_norm == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]))
    assert astuple(parts) == pytest.approx(astuple(whole))


def test_network_in_training_mode_equals_its_dense_hessian() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)
    ).double()
    x, y = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.arange(6) % 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = sharpness(model, (x, y), tolerance=1e-8)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    names = [name for name, _ in model.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        output = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return nn.functional.cross_entropy(output, y)

    blocks = torch.autograd.functional.hessian(loss, tuple(model.parameters()))
    sizes = [p.numel() for p in model.parameters()]
    hessian = torch.cat(
        [
            torch.cat([b.reshape(r, c) for b, c in zip(row, sizes, strict=True)], 1)
            for row, r in zip(blocks, sizes, strict=True)
        ]
    )
    conv = projection(3, 18)
    rest = [torch.eye(9, dtype=torch.float64), projection(2, 48), torch.eye(2, dtype=torch.float64)]
    p = torch.block_diag(conv, *rest)
    wanted = expected(hessian, p)
    assert (found.hessian_norm, found.projected_norm, found.restricted_max) == pytest.approx(
        wanted, rel=1e-6
    )


def test_checkpointed_network_stays_unchanged() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)
    batch = torch.randn(5, 4), torch.arange(5) % 3
    before = [value.clone() for value in nn.Sequential(*layers).buffers()]
    assert sharpness(Checkpointed(*layers), batch) == sharpness(nn.Sequential(*layers), batch)
    assert all(map(torch.equal, nn.Sequential(*layers).buffers(), before))


def test_projected_norm_is_at_most_the_norm() -> None:
    x = center(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)), axes=1)
    found = sharpness(nn.Linear(40, 1), (x, None), loss=lambda z, _: z.square().mean())
    assert found.projected_norm <= found.hessian_norm


def test_dropout_is_the_same_in_every_product() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    batch = torch.randn(5, 8), torch.arange(5) % 3
    assert sharpness(model, [batch, batch]) == sharpness(model, [batch, batch])


@pytest.mark.parametrize(
    ("model", "loss", "words"),
    [
        (
            nn.Linear(3, 2).requires_grad_(False),
            None,
            "no parameter of the model requires",
        ),
        (nn.Linear(3, 2).bfloat16(), None, "weight is bfloat16"),
        (nn.Linear(3, 2), lambda z, _: z.sum(1), "it must be one number"),
        (nn.Linear(3, 2), lambda z, _: (z.square() * torch.inf).sum(), "not finite"),
        ("model", None, "a torch.nn.Module"),
    ],
)
def test_invalid_arguments_raise(model: nn.Module, loss: object, words: str) -> None:
    options = {} if loss is None else {"loss": loss}
    with pytest.raises(ZeromeanError, match=words):
        sharpness(model, (torch.ones(4, 3), torch.zeros(4, dtype=torch.long)), **options)


@pytest.mark.parametrize("tolerance", [-1.0, 0.0, 1.0, float("nan")])
def test_invalid_tolerance_raises(tolerance: float) -> None:
    with pytest.raises(ZeromeanError, match="is not between 0 and 1"):
        sharpness(nn.Linear(3, 2), (torch.ones(4, 3), None), tolerance=tolerance)


def test_linear_loss_has_zero_curvature() -> None:
    found = sharpness(nn.Linear(40, 2), (torch.ones(2, 40), None), loss=lambda z, _: z.mean())
    assert (found.hessian_norm, found.projected_norm, found.restricted_max) == (0, 0, 0)


def test_no_generator_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(*_: object) -> None:
        raise AssertionError("the random numbers of a device that the model is not on")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    monkeypatch.setattr(torch, "manual_seed", seeded)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    sharpness(model, (torch.randn(5, 4), torch.arange(5) % 3))

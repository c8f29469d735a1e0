"""Test the laws of the paper through real training steps: Eq. 3 and Corollary 4.1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zeromean
from brute_force import layer_vectors

LAYERS = {
    "Linear": (lambda: nn.Linear(7, 5), (9, 7)),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, groups=1), (2, 3, 11)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
}
PROJECTED = {  # settings under which the whole update is projected
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}, "gradient"),
    "SGD, nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}, "gradient"),
    "SGD, update": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.1}, "update"),
    "AdamW, update": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}, "update"),
    "Adam, update": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}, "update"),
}


def train(layer: nn.Module, shape: tuple[int, ...], setting: str, steps: int) -> None:
    kind, hyper, at = PROJECTED[setting]
    optimizer = kind(layer.parameters(), **hyper)
    zeromean.centralize(optimizer, layer, at=at)
    for _ in range(steps):
        optimizer.zero_grad()
        output = layer(torch.randn(shape, dtype=torch.float64))
        (output.square().mean() + output.mean()).backward()
        optimizer.step()


def vector_sums(weight: Tensor, row: Any) -> Tensor:
    means = weight - zeromean.center(weight, row.axes, row.groups)
    return means * row.fan_in.size(row.shape)


@pytest.mark.parametrize("setting", PROJECTED)
@pytest.mark.parametrize("layer_name", LAYERS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 8))
def test_eq_3_weight_vectors_keep_their_sums(
    layer_name: str, setting: str, seed: int, steps: int
) -> None:
    torch.manual_seed(seed)
    make, shape = LAYERS[layer_name]
    layer = make().double()
    row = zeromean.explain(layer)[0]
    before = vector_sums(layer.weight.detach(), row)
    start = layer.weight.detach().clone()
    train(layer, shape, setting, steps)
    assert not torch.equal(layer.weight, start)
    torch.testing.assert_close(vector_sums(layer.weight.detach(), row), before)


@pytest.mark.parametrize("setting", PROJECTED)
@pytest.mark.parametrize("layer_name", LAYERS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**31), shift=st.floats(-4, 4))
def test_corollary_4_1_response_to_a_shift_is_constant(
    layer_name: str, setting: str, seed: int, shift: float
) -> None:
    """w_t x - w_t (x + c 1) = -c 1 w_0 for all t, if the whole vector meets shifted inputs."""
    torch.manual_seed(seed)
    make, shape = LAYERS[layer_name]
    layer = make().double()

    def response(x: Tensor) -> Tensor:
        difference = layer(x).detach() - layer(x + shift).detach()
        # At the border of a transposed convolution a pixel uses only a part of the vector.
        return difference[..., 2:-2, 2:-2] if layer_name == "ConvTranspose2d" else difference

    ones = torch.ones(shape, dtype=torch.float64)
    vectors = layer_vectors(layer, lambda: (ones,))
    predicted = torch.stack([-shift * layer.weight.detach()[vector].sum() for vector in vectors])
    x = torch.randn(shape, dtype=torch.float64)
    train(layer, shape, setting, 5)
    responses = response(x).movedim(1, -1)
    torch.testing.assert_close(responses, predicted.expand_as(responses))


def test_adaptive_steps_move_means_at_gradient() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    zeromean.centralize(optimizer, layer, fused=False)
    before = layer.weight.detach().mean(1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(9, 7).double()).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.grad.mean(1), torch.zeros(5).double())
    assert (layer.weight.detach().mean(1) - before).abs().max() > 1e-4

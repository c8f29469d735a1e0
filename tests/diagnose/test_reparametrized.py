"""The diagnostics of models whose weights are computed from proxies."""

from __future__ import annotations

import copy

import pytest
import torch
from test_fisher_condition import by_definition
from torch import nn

import zeromean
from zeromean.diagnose import (
    fisher_condition,
    gradient_norms,
    intensity_response,
    preactivations,
    sharpness,
    weight_means,
)

METHODS = ("wn", "cwn", "ws", "nnn")


def network(method: str) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    zeromean.reparametrize(model.double(), method)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(12, 6, dtype=torch.float64) + 1, torch.arange(12) % 3


@pytest.mark.parametrize("method", METHODS)
def test_pre_activations_are_those_of_the_plain_model(method: str) -> None:
    model, one = network(method), batch()
    found = preactivations(model, one)
    for index, place in enumerate((0, 2, 4)):
        outputs = model[: place + 1](one[0]).detach()
        assert found.unit_means[index] == pytest.approx(outputs.mean(0).numpy())
    assert model(one[0]).shape == (12, 3)


@pytest.mark.parametrize("method", ["cwn", "ws"])
def test_centered_weights_have_zero_mean_and_response(method: str) -> None:
    model, one = network(method), batch()
    assert max(abs(means).max() for means in weight_means(model).means) < 1e-15
    norms = gradient_norms(model, one)
    assert len(norms.layers) == 3
    assert norms.removed.max() < 1e-12
    response = intensity_response(model, one)
    assert len(response.layers) == 3
    assert max(abs(values).max() for values in response.response) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_fisher_information_is_by_the_trained_proxies(method: str) -> None:
    model, (x, _) = network(method), batch()
    found = fisher_condition(model, (x, None))
    assert [name.partition(".")[0] for name in found.layers] == ["2", "4"]
    trained = [
        parameter for name, parameter in model[2].named_parameters() if name not in ("bias", "d")
    ]
    total = by_definition(model.eval(), trained, x)
    assert found.eigenvalues[0] == pytest.approx(
        torch.linalg.eigvalsh(total).numpy(), abs=1e-10 * float(total.trace())
    )
    estimate = fisher_condition(model, (x, None), method="lanczos")
    assert estimate.eigenvalues[0][-1] == pytest.approx(found.eigenvalues[0][-1], rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_sharpness_and_gradient_norms_of_an_optimizer(method: str) -> None:
    model, (x, y) = network(method), batch()
    found = sharpness(model, (x, y))
    assert 0 < found.projected_norm <= found.hessian_norm * 1.001
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradient_norms(optimizer, model=model) as norms:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert norms.norm.shape == (3, 3)
    assert (norms.norm > 0).all()


def test_diagnosed_model_folds_and_copies() -> None:
    model, one = network("cwn"), batch()
    fisher_condition(model, one)
    intensity_response(model, one)
    twin = copy.deepcopy(model)
    outputs = model(one[0])
    assert torch.equal(twin(one[0]), outputs)
    assert torch.equal(zeromean.fold(model)(one[0]), outputs)

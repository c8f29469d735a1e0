"""Fisher matrices against closed forms, their definition, and estimates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from zeromean import ZeromeanError
from zeromean.diagnose import fisher_condition

Supports = Callable[[str, str, str, str], None]
Arrays = tuple[np.ndarray, ...]


def by_definition(model: nn.Module, parameters: list[Tensor], x: Tensor) -> Tensor:
    """E_x E_y [grad log p(y|x) grad log p(y|x)^T], one sample and one label at a time."""
    size = sum(parameter.numel() for parameter in parameters)
    total = torch.zeros(size, size, dtype=torch.float64)
    for sample in x:
        log_p = model(sample[None]).log_softmax(-1).flatten()
        for one in log_p:
            parts = torch.autograd.grad(one, parameters, retain_graph=True)
            gradient = torch.cat([part.flatten() for part in parts]).double()
            total += one.detach().exp() * torch.outer(gradient, gradient)
    return total / len(x)


def test_gaussian_linear_model_has_the_inputs_second_moments(supports: Supports) -> None:
    supports("Diagnostic", "fisher_condition", "-", "closed forms of linear models")
    x = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 10.0])
    model = nn.Linear(4, 3, dtype=torch.float64)
    found = fisher_condition(model, (x, None), likelihood="gaussian")
    moments = torch.linalg.eigvalsh(x.T @ x / 50)
    assert found.eigenvalues[0] == pytest.approx(moments.repeat_interleave(3).numpy(), rel=1e-10)
    assert found.condition[0] == pytest.approx(float(moments[-1] / moments[0]), rel=1e-9)
    assert found.pseudo_condition[0] == pytest.approx(found.condition[0])
    shift = 0.5 * float(moments.mean())
    damped = fisher_condition(model, (x, None), likelihood="gaussian", damping=0.5)
    assert damped.damped_condition[0] == pytest.approx(
        float((moments[-1] + shift) / (moments[0] + shift)), rel=1e-9
    )


def test_softmax_layer_equals_its_closed_form_and_is_singular() -> None:
    x = torch.randn(30, 3, dtype=torch.float64)
    model = nn.Linear(3, 4, dtype=torch.float64)
    p = model(x).softmax(-1).detach()
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    fisher = torch.einsum("nij,na,nb->iajb", covariance, x, x).reshape(12, 12) / 30
    found = fisher_condition(model, (x, None))
    values = torch.linalg.eigvalsh(fisher)
    assert found.eigenvalues[0] == pytest.approx(values.numpy(), abs=1e-12)
    assert np.isinf(found.condition[0])  # raising every logit alike changes nothing: 3 directions
    assert found.rank[0] == 9
    assert found.pseudo_condition[0] == pytest.approx(float(values[-1] / values[3]))


@pytest.mark.parametrize("parametrized", [False, True])
def test_hidden_layers_match_the_definition(parametrized: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 4)
    ).double()
    if parametrized:
        parametrizations.spectral_norm(model[0])
        parametrizations.spectral_norm(model[3])
    model.eval()
    x = torch.randn(9, 1, 3, 3, dtype=torch.float64)
    found = fisher_condition(model, [(x[:4], None), (x[4:], None)], ["0", "3.weight"])
    for layer, values in zip((model[0], model[3]), found.eigenvalues, strict=True):
        trained = (
            list(layer.parametrizations.weight.parameters()) if parametrized else [layer.weight]
        )
        wanted = torch.linalg.eigvalsh(by_definition(model, trained, x)).numpy()
        assert values == pytest.approx(wanted, abs=1e-10)
    assert found.layers == ("0.weight", "3.weight")
    assert found.methods == ("exact", "exact")
    assert model(x).shape == (9, 4)  # its parametrizations are as they were


def test_jacobians_in_parts_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batch = torch.randn(7, 3, dtype=torch.float64), None
    whole = fisher_condition(model, batch)
    monkeypatch.setattr(sys.modules[fisher_condition.__module__], "MAX_JACOBIAN_ENTRIES", 50)
    parts = fisher_condition(model, batch)
    for one, other in zip(parts.eigenvalues, whole.eigenvalues, strict=True):
        assert one == pytest.approx(other, abs=1e-14)


def test_positions_of_a_sequence_are_independent() -> None:
    model = nn.Linear(3, 2, dtype=torch.float64)
    x = torch.randn(5, 7, 3, dtype=torch.float64)
    found = fisher_condition(model, (x, None))
    flat = fisher_condition(model, (x.reshape(35, 3), None))
    assert found.eigenvalues[0] == pytest.approx(7 * flat.eigenvalues[0], abs=1e-12)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_attention_matches_the_definition(method: str) -> None:
    """The fast path of attention in evaluation mode has no derivative."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(x).mean(1))

    model = Classifier().double().eval()
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    names = ["block.self_attn.in_proj_weight", "block.self_attn.out_proj", "block.linear1"]
    found = fisher_condition(model, (x, None), names, method=method)
    for name, values in zip(found.layers, found.eigenvalues, strict=True):
        wanted = torch.linalg.eigvalsh(by_definition(model, [model.get_parameter(name)], x))
        if method == "exact":
            assert values == pytest.approx(wanted.numpy(), abs=1e-12)
        assert values[-1] == pytest.approx(float(wanted[-1]))


def test_default_layers_are_the_last_two_that_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.middle, self.first = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.first(x).relu()).relu())

    found = fisher_condition(Backwards(), (torch.randn(6, 3), None))
    assert found.layers == ("middle.weight", "last.weight")


def test_default_layers_are_those_of_evaluation_mode() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.auxiliary = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            output = self.second(self.first(x).relu())
            return output + self.auxiliary(x) if self.training else output

    found = fisher_condition(Auxiliary(), (torch.randn(6, 3), None))
    assert found.layers == ("first.weight", "second.weight")


@pytest.mark.parametrize("split", [False, True])
def test_estimate_is_exact_if_its_krylov_space_is_complete(split: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    batches = [(x[:10], None), (x[10:], None)] if split else (x, None)
    exact = fisher_condition(model, batches, method="exact")
    estimate = fisher_condition(model, batches, method="lanczos")
    assert set(estimate.methods) == {"Lanczos estimate"}
    assert "estimate" in estimate.answer
    assert estimate.size.tolist() == exact.size.tolist()
    for few, all_of_them in zip(estimate.eigenvalues, exact.eigenvalues, strict=True):
        assert few[-1] == pytest.approx(all_of_them[-1])
    assert estimate.pseudo_condition == pytest.approx(exact.pseudo_condition, rel=1e-4)
    assert estimate.damped_condition == pytest.approx(exact.damped_condition, rel=0.3)


def test_estimate_is_a_lower_bound() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10))
    x = torch.randn(60, 30)
    exact = fisher_condition(model, (x, None), ["0"], method="exact", threshold=1e-6)
    estimate = fisher_condition(model, (x, None), ["0"], method="lanczos", threshold=1e-6)
    assert estimate.eigenvalues[0][-1] == pytest.approx(exact.eigenvalues[0][-1], rel=1e-4)
    assert 1 < estimate.pseudo_condition[0] <= exact.pseudo_condition[0] * 1.001


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_zero_fisher_information_raises(method: Literal["exact", "lanczos"]) -> None:
    model = nn.Linear(2, 2, dtype=torch.float64)
    model.weight.data.copy_(torch.tensor([[1e6, 1e6], [-1e6, -1e6]]))
    batch = torch.ones(3, 2, dtype=torch.float64), None
    with pytest.raises(ZeromeanError, match="Fisher information of weight is zero"):
        fisher_condition(model, batch, method=method)


def test_model_runs_in_evaluation_mode_and_stays_unchanged() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    x = torch.randn(12, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fisher_condition(model, (x, None))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = fisher_condition(model.eval(), (x, None))
    assert found.eigenvalues[0] == pytest.approx(again.eigenvalues[0])


def test_frozen_weights_and_integer_parameters() -> None:
    model = nn.Linear(3, 2, bias=False)
    wanted = fisher_condition(model, (torch.eye(3), None), likelihood="gaussian")
    model.requires_grad_(False)
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    for method in ("exact", "lanczos"):
        batch = torch.eye(3), None
        found = fisher_condition(model, batch, likelihood="gaussian", method=method)
        assert found.eigenvalues[0][-1] == pytest.approx(wanted.eigenvalues[0][-1])
        assert not model.weight.requires_grad


@pytest.mark.parametrize("scale", [torch.full((5, 1), 2.0), torch.tensor(2.0)])
def test_inputs_by_name(scale: Tensor) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, values: Tensor, scale: Tensor) -> Tensor:
            return self.layer(values) * scale

    model, x = Named(), torch.randn(5, 3)
    batch = {"values": x, "scale": scale}, None
    for method in ("exact", "lanczos"):
        found = fisher_condition(model, batch, likelihood="gaussian", method=method)
        moments = torch.linalg.eigvalsh(4 * x.double().T @ x.double() / 5)
        assert found.eigenvalues[0][-1] == pytest.approx(float(moments[-1]), rel=1e-5)


def test_input_without_a_row_per_sample_raises() -> None:
    class Named(nn.Linear):
        def forward(self, input: Tensor, offset: Tensor) -> Tensor:
            return super().forward(input) + offset

    batch = {"input": torch.randn(5, 3), "offset": torch.zeros(1, 2)}, None
    with pytest.raises(ZeromeanError, match='method="lanczos"'):
        fisher_condition(Named(3, 2), batch, likelihood="gaussian", method="exact")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Functional(nn.Module):
    """A model that uses a layer's weight without a call of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight)


class Tupled(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        return (super().forward(x),)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (nn.Linear(3, 2), {"layers": ["head"]}, '"head" is not one of the layers .*: weight'),
        (nn.Linear(3, 2), {"layers": []}, "layers is empty"),
        (nn.Linear(3, 2), {"likelihood": "poisson"}, 'likelihood="poisson"'),
        (nn.Linear(3, 2), {"method": "kfac"}, 'method="kfac"'),
        (nn.Linear(3, 2), {"threshold": 0.0}, "threshold=0.0"),
        (nn.Linear(3, 2), {"threshold": 1.0}, "threshold=1.0 is not between 0 and 1"),
        (nn.Linear(3, 2), {"damping": -1.0}, "damping=-1.0"),
        (nn.Linear(3, 2).half(), {}, "weight is float16"),
        (nn.ReLU(), {}, "no layer that can be centered"),
        (nn.LazyLinear(2), {}, "weight is a lazy parameter"),
        (Functional(), {}, "calls none of its layers .*layers= with names from layer.weight"),
        (Branching(), {"method": "exact"}, 'method="lanczos"'),
        (nn.Sequential(nn.Linear(3, 2), Tupled(2, 2)), {"layers": ["0"]}, "output is tuple"),
    ],
)
def test_invalid_arguments_raise(model: nn.Module, options: dict[str, object], words: str) -> None:
    with pytest.raises(ZeromeanError, match=words):
        fisher_condition(model, (torch.ones(4, 3), None), **options)


def test_estimate_is_singular_with_too_few_outputs() -> None:
    model = nn.Linear(60, 10, bias=False)
    inputs = torch.randn(90, 60, generator=torch.Generator().manual_seed(0))
    for samples, singular in ((20, True), (90, False)):
        batch = inputs[:samples], None
        for method in ("exact", "lanczos"):
            found = fisher_condition(model, batch, likelihood="gaussian", method=method)
            assert np.isinf(found.condition) == [singular]
    # A softmax leaves one output less: 63 samples have 567 of the 600 directions.
    assert np.isinf(fisher_condition(model, (inputs[:63], None), method="lanczos").condition)


def test_estimate_excludes_eigenvalues_that_are_rounding() -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    batch = torch.randn(8, 6, generator=generator) + 1, None
    exact = fisher_condition(model, batch)
    estimate = fisher_condition(model, batch, method="lanczos")
    assert (estimate.pseudo_condition <= exact.pseudo_condition * 1.01).all()

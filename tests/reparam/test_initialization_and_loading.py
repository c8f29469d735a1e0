"""Initialization of re-parametrized layers, and loading of plain checkpoints into them."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from reparam_layers import LAYERS, METHODS
from torch import Tensor, nn
from torch.nn.utils import parametrize

import zeromean

Say = Any


def pair(name: str, method: Any, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A plain layer and its re-parametrized copy, in float64."""
    plain = LAYERS[name][0]().double()
    layer = copy.deepcopy(plain)
    zeromean.reparametrize(layer, method, **options)
    return plain, layer


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", METHODS)
def test_reset_parameters_starts_from_the_plain_initialization(
    name: str, method: Any, supports: Say
) -> None:
    plain, layer = pair(name, method, scale="learned")
    for module in (plain, layer):
        torch.manual_seed(5)
        module.reset_parameters()  # type: ignore[operator]
    zeromean.reparametrize(plain, method, scale="learned")
    for expected, found in zip(plain.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    supports("Weights", f"{method}, reset_parameters", "-", "equal to the plain layer's, converted")


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRUCell])
def test_reset_parameters_of_recurrent_layers(make: Any) -> None:
    layer = make(4, 5)
    zeromean.reparametrize(layer, "cwn")
    lists = layer.parametrizations
    layer.reset_parameters()
    for originals in lists.values():
        g, v = originals.original0, originals.original1
        assert v.abs().max() <= 5**-0.5
        centered = zeromean.center(v, 1)
        torch.testing.assert_close(g, centered.norm(dim=1, keepdim=True))


def test_reset_parameters_of_attention() -> None:
    layer = nn.MultiheadAttention(8, 2)
    zeromean.reparametrize(layer, "wn")
    old = layer.in_proj_weight.detach().clone()
    torch.manual_seed(1)
    layer._reset_parameters()
    plain = nn.MultiheadAttention(8, 2)
    torch.manual_seed(1)
    plain._reset_parameters()
    torch.testing.assert_close(layer.in_proj_weight, plain.in_proj_weight)
    assert not torch.equal(layer.in_proj_weight, old)


def test_reset_parameters_with_arguments() -> None:
    class Scaled(nn.Linear):
        def reset_parameters(self, value: float = 1.0) -> None:
            nn.init.ones_(self.weight)
            nn.init.constant_(self.weight[:, 0], value)

    layer = Scaled(3, 2)
    zeromean.reparametrize(layer, "wn")
    layer.reset_parameters(value=5.0)
    torch.testing.assert_close(layer.weight[:, 0], torch.full((2,), 5.0))


def test_reset_parameters_that_writes_to_data() -> None:
    class Old(nn.Linear):
        def reset_parameters(self) -> None:
            self.weight.data.uniform_(5, 6)

    layer = Old(3, 2)
    zeromean.reparametrize(layer, "wn")
    layer.weight = torch.ones(2, 3)
    layer.reset_parameters()
    assert layer.weight.min() > 4.99


@pytest.mark.parametrize("make", [nn.Linear, nn.LSTM])
def test_reset_parameters_keeps_weights_that_it_does_not_write(make: Any) -> None:
    class BiasOnly(make):  # type: ignore[misc]
        def reset_parameters(self) -> None:
            for name, p in self.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(p)

    layer = BiasOnly(3, 2)
    for p in layer.parameters():
        nn.init.normal_(p)
    zeromean.reparametrize(layer, "wn")
    with torch.no_grad():
        for lists in layer.parametrizations.values():
            lists.original0.mul_(3)
    before = copy.deepcopy(layer.state_dict())
    layer.reset_parameters()
    for key, value in layer.state_dict().items():
        assert torch.equal(value, torch.zeros_like(value) if "bias" in key else before[key])


def test_reset_parameters_of_a_copy_and_after_fold() -> None:
    layer = nn.Linear(6, 4)
    zeromean.reparametrize(layer, "cwn")
    copied = copy.deepcopy(layer)
    before = layer.weight.detach().clone()
    copied.reset_parameters()
    assert torch.equal(layer.weight, before)
    assert not torch.equal(copied.weight, before)
    zeromean.fold(copied)
    copied.reset_parameters()
    assert type(copied) is nn.Linear
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("method", METHODS)
def test_reset_parameters_keeps_a_unit_start_and_a_fixed_scale(method: Any) -> None:
    _, unit = pair("Linear", method, scale="learned", init="unit")
    _, fixed = pair("Linear", method, scale=2.0)
    for layer in (unit, fixed):
        layer.reset_parameters()  # type: ignore[operator]
    assert torch.equal(unit.parametrizations.weight.original0, torch.ones(5, 1).double())
    lengths = fixed.weight.norm(dim=1) / (7**0.5 if method == "ws" else 1)
    torch.testing.assert_close(lengths, torch.full((5,), 2.0).double(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("in_place", [nn.init.zeros_, nn.init.xavier_uniform_, nn.init.orthogonal_])
def test_in_place_initialization_warns(method: Any, in_place: Any, backend: str) -> None:
    _, layer = pair("Linear", method)
    before = layer.weight.detach().clone()
    in_place(layer.weight)
    with pytest.warns(zeromean.ZeromeanWarning, match=r"no effect.*layer\.weight = w"):
        after = layer.weight
    assert torch.equal(after, before)
    layer(torch.randn(2, 7).double()).sum().backward()  # warns once


def test_reading_training_and_assigning_do_not_warn() -> None:
    _, layer = pair("Linear", "cwn")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(2, 7).double()).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            layer.weight.sum()
    weight = layer.weight.detach()
    weight.mul_(2)
    layer.weight = weight
    with torch.inference_mode():
        layer(torch.randn(2, 7).double())


# --- plain checkpoints ----------------------------------------------------------------------------


def load(layer: nn.Module, plain: nn.Module, exact: bool) -> None:
    """Load a plain checkpoint; a change of the function must cause a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert layer.load_state_dict(plain.state_dict()).missing_keys == []
    messages = [str(one.message) for one in caught]
    assert bool(messages) == (not exact)
    assert all("Plain weights were loaded" in message for message in messages)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"mean": "keep"}, {"scale": 1.5}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_plain_checkpoint_loads_as_reparametrize_converts(
    name: str, method: Any, options: Any, supports: Say
) -> None:
    if method == "wn" and "mean" in options:
        options = {}
    options = {"scale": "learned", **options}
    plain, layer = LAYERS[name][0]().double(), LAYERS[name][0]().double()
    expected = copy.deepcopy(plain)
    zeromean.reparametrize(layer, method, **options)
    zeromean.reparametrize(expected, method, **options)
    exact = options["scale"] == "learned" and (method == "wn" or "mean" in options)
    load(layer, plain, exact)
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())
    assert torch.equal(layer.weight, expected.weight)
    if exact:
        torch.testing.assert_close(layer.weight, plain.weight)
    supports("Weights", f"{method}, plain checkpoint", "-", "equal to converting the plain layer")


def test_plain_checkpoint_of_a_whole_network_loads() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))

    plain, model = network(), network()
    zeromean.reparametrize(model, "wn")
    load(model, plain, exact=True)
    x = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(model(x), plain(x))
    assert plain.state_dict().keys() != model.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_plain_checkpoint_of_another_type_loads_in_the_layer_s_type(dtype: torch.dtype) -> None:
    state = nn.Linear(64, 10).to(dtype).state_dict()
    expected, layer = nn.Linear(64, 10), nn.Linear(64, 10)
    expected.load_state_dict(state)
    zeromean.reparametrize(expected, "wn")
    zeromean.reparametrize(layer, "wn")
    layer.load_state_dict(state)
    assert torch.equal(layer.weight, expected.weight)
    layer.load_state_dict(state, assign=True)
    assert layer.weight.dtype is dtype


def test_plain_checkpoint_is_assigned_to_a_model_on_the_meta_device() -> None:
    plain = nn.Linear(7, 5)
    with torch.device("meta"):
        layer = nn.Linear(7, 5)
    zeromean.reparametrize(layer, "cwn", mean="keep")
    layer.load_state_dict(plain.state_dict(), assign=True)
    torch.testing.assert_close(layer.weight, plain.weight)


def test_plain_checkpoint_loads_into_nnn() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()

    plain, model = network(), network()
    zeromean.reparametrize(model, "nnn", every=2)
    x = torch.randn(8, 6, dtype=torch.float64)
    model(x).sum().backward()
    for assign in (False, True):
        model.load_state_dict(copy.deepcopy(plain.state_dict()), assign=assign)
        model.eval()
        torch.testing.assert_close(model(x), plain(x))
        model.train()
        torch.testing.assert_close(model(x), plain(x))
        assert not torch.equal(model[0].U, torch.eye(6).double())


def test_plain_checkpoint_of_another_size_is_an_error() -> None:
    _, layer = pair("Linear", "cwn")
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict({"weight": torch.ones(5, 8), "bias": torch.ones(5)})


def test_plain_checkpoint_with_other_parametrizations_raises() -> None:
    layer = nn.Linear(4, 4)
    zeromean.reparametrize(layer, "wn")
    parametrize.register_parametrization(layer, "weight", _Doubled())
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(nn.Linear(4, 4).state_dict())


class _Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_plain_checkpoint_leaves_its_values_alone() -> None:
    plain, layer = pair("Linear", "cwn")
    state = plain.state_dict()
    before = copy.deepcopy(state)
    with pytest.warns(zeromean.ZeromeanWarning, match="Plain weights were loaded"):
        layer.load_state_dict(state)
    assert state.keys() == before.keys()
    layer(torch.randn(2, 7).double()).sum().backward()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(1)
    torch.testing.assert_close(state, before)


def test_own_checkpoint_loads_without_conversion() -> None:
    _, layer = pair("Linear", "cwn", mean="keep")
    _, other = pair("Linear", "cwn", mean="keep")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)

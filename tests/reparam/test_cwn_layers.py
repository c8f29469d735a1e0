"""``zeromean.nn``: layers that replace torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from reparam_layers import by_hand, vectors_of
from torch import Tensor, nn
from torch.nn.utils import parametrize

import zeromean

Say = Any

# layer, its arguments, shape of its input, method of torch's functional
LAYERS: dict[str, tuple[Any, ...]] = {
    "Linear": ((7, 5), {}, (3, 7)),
    "Conv1d": ((4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9)),
    "Conv2d": ((4, 6, (3, 2)), {"dilation": 2, "padding": 1}, (2, 4, 7, 7)),
    "Conv3d": ((3, 4, 2), {"bias": False}, (2, 3, 4, 4, 4)),
    "ConvTranspose2d": ((8, 6, 3), {"stride": 2, "output_padding": 1, "groups": 2}, (2, 8, 4, 4)),
}  # fmt: skip


def both(name: str, **options: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    """The CWN layer, torch's with its effective weight and bias, and an input."""
    args, kwargs, shape = LAYERS[name]
    layer = getattr(zeromean.nn, f"CWN{name}")(*args, **kwargs, dtype=torch.float64, **options)
    plain = getattr(nn, name)(*args, **kwargs, dtype=torch.float64)
    plain.load_state_dict(zeromean.fold(copy.deepcopy(layer)).state_dict())
    return layer, plain, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch_s_with_its_weight(name: str, supports: Say) -> None:
    layer, plain, x = both(name)
    assert isinstance(layer, type(plain))
    torch.testing.assert_close(layer(x), plain(x))
    v, g = (getattr(layer.parametrizations.weight, f"original{n}") for n in (1, 0))
    vectors = vectors_of(copy.deepcopy(plain), x.shape)
    torch.testing.assert_close(layer.weight, by_hand(v, g, vectors, "cwn"))
    assert torch.equal(g, torch.ones_like(g))
    layer(x).square().sum().backward()
    assert g.grad.abs().sum() > 0
    assert v.grad.abs().sum() > 0
    assert (layer.bias is None) == (plain.bias is None)
    supports("Weights", f"zeromean.nn.CWN{name}", "-", "equal to torch's layer with that weight")


@pytest.mark.parametrize("name", LAYERS)
def test_fold_returns_torch_s_layer(name: str) -> None:
    layer, plain, x = both(name)
    before, weight = layer(x), layer.weight.detach().clone()
    assert zeromean.fold(layer) is layer
    assert type(layer) is type(plain)
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer(x), before)
    assert repr(layer) == repr(plain)


def test_fold_keeps_a_user_s_class() -> None:
    class Doubled(zeromean.nn.CWNLinear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    class Named(nn.Linear):
        plain = True

    for layer in (Doubled(4, 3), Named(4, 3)):
        kind = type(layer) if isinstance(layer, Named) else Doubled
        if isinstance(layer, Named):
            zeromean.reparametrize(layer, "cwn")
        x = torch.randn(2, 4)
        before = layer(x)
        assert type(zeromean.fold(layer)) is kind
        assert torch.equal(layer(x), before)
        layer.reset_parameters()


def test_scale_and_init() -> None:
    fixed = zeromean.nn.CWNLinear(6, 4, scale=2.0)
    torch.testing.assert_close(fixed.weight.norm(dim=1), torch.full((4,), 2.0))
    assert len(list(fixed.parameters())) == 2
    torch.manual_seed(1)
    preserved = zeromean.nn.CWNLinear(6, 4, init="preserve")
    torch.manual_seed(1)
    plain = nn.Linear(6, 4)
    torch.testing.assert_close(preserved.weight, zeromean.center(plain.weight, 1))


@pytest.mark.parametrize("init", ["unit", "preserve"])
def test_reset_parameters_starts_again(init: Any) -> None:
    layer, plain = zeromean.nn.CWNLinear(6, 4, init=init), nn.Linear(6, 4)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(9.0)
    for module in (layer, plain):
        torch.manual_seed(3)
        module.reset_parameters()
    torch.testing.assert_close(layer.parametrizations.weight.original1, plain.weight)
    torch.testing.assert_close(layer.bias, plain.bias)
    centered = zeromean.center(plain.weight, 1)
    expected = centered / centered.norm(dim=1, keepdim=True) if init == "unit" else centered
    torch.testing.assert_close(layer.weight, expected)
    zeromean.fold(layer).reset_parameters()


def test_invalid_arguments_raise() -> None:
    for make in (
        lambda: zeromean.nn.CWNLinear(1, 4),
        lambda: zeromean.nn.CWNConv2d(4, 4, 1, groups=4),
    ):
        with pytest.raises(zeromean.ZeromeanError, match=r"fan-in 1.*torch\.nn\."):
            make()
    with pytest.raises(zeromean.ZeromeanError, match='neither "learned" nor a positive number'):
        zeromean.nn.CWNLinear(4, 4, scale="fixed")
    with pytest.raises(zeromean.ZeromeanError, match=r"unit.*preserve"):
        zeromean.nn.CWNLinear(4, 4, init="zero")
    with pytest.raises(zeromean.ZeromeanError, match="Leave init or scale out"):
        zeromean.nn.CWNLinear(4, 4, init="preserve", scale=1.0)
    with pytest.raises(zeromean.ZeromeanError, match=r"complex64 are not supported.*torch\.nn\."):
        zeromean.nn.CWNLinear(4, 4, dtype=torch.complex64)
    with pytest.raises(TypeError, match="unexpected keyword"):
        zeromean.nn.CWNLinear(4, 4, biased=False)


def test_plan_of_a_cwn_layer() -> None:
    layer = zeromean.nn.CWNConvTranspose2d(8, 6, 3, groups=2)
    row = next(row for row in zeromean.explain(layer) if row.name.endswith("original1"))
    assert (row.axes, row.groups, row.centered) == ((0, 2, 3), 2, False)
    assert (
        row.reason == "CenteredWeightNorm of CWNConvTranspose2d: its gradient is zero-mean already"
    )
    assert parametrize.is_parametrized(layer, "weight")

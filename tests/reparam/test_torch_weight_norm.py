"""Conversion between torch's weight_norm, in both forms, and "wn"."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as old_weight_norm

import zeromean
from zeromean.reparam import from_torch, old_names, to_torch
from zeromean.reparam.parametrization import WeightNorm

Say = Any
FORMS = ("hook", "parametrization")


def normed(form: str, layer: nn.Module, **options: Any) -> nn.Module:
    if form == "parametrization":
        return parametrizations.weight_norm(layer, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return old_weight_norm(layer, **options)


def network(form: str | None) -> nn.Sequential:
    wrap: Callable[..., nn.Module] = lambda layer, **_: layer  # noqa: E731
    if form:
        wrap = lambda layer, **options: normed(form, layer, **options)  # noqa: E731
    return nn.Sequential(
        wrap(nn.Conv1d(3, 4, 3)), nn.ReLU(), wrap(nn.ConvTranspose1d(4, 3, 2), dim=1),
        nn.Flatten(), wrap(nn.Linear(27, 2)), nn.Linear(2, 2),
    ).double()  # fmt: skip


def x() -> torch.Tensor:
    return torch.randn(5, 3, 10, dtype=torch.float64)


def train(model: nn.Module, batches: list[torch.Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("form", FORMS)
def test_from_torch_keeps_training_the_same(form: str, supports: Say) -> None:
    model = network(form)
    train(model, [x()])
    converted = copy.deepcopy(model) if form == "parametrization" else network(form)
    converted.load_state_dict(model.state_dict())
    report = from_torch(converted)
    assert [change.row.name for change in report.done] == ["0.weight", "2.weight", "4.weight"]
    assert all(change.moved < 1e-14 for change in report)
    batches = [x() for _ in range(4)]
    train(model, batches)
    train(converted, batches)
    last = x()
    torch.testing.assert_close(converted(last), model(last))
    assert not any(isinstance(m, parametrizations._WeightNorm) for m in converted.modules())
    assert not any(m._forward_pre_hooks for m in converted.modules())
    supports("Weights", f"torch's weight_norm ({form}) to wn", "-", "equal training steps")


@pytest.mark.parametrize("form", FORMS)
def test_to_torch_keeps_training_the_same(form: str, supports: Say) -> None:
    model = network(None)
    zeromean.reparametrize(model, "wn", layers=lambda name, _: name != "5")
    train(model, [x()])
    twin = network(form)
    state = model.state_dict()
    twin.load_state_dict(old_names(state) if form == "hook" else state)
    converted = copy.deepcopy(model)
    assert to_torch(converted, hook=form == "hook") is converted
    assert sorted(converted.state_dict()) == sorted(twin.state_dict())
    torch.testing.assert_close(dict(converted.state_dict()), dict(twin.state_dict()))
    batches = [x() for _ in range(3)]
    for other in (twin, converted):
        again = copy.deepcopy(model)
        train(again, batches)
        train(other, batches)
        torch.testing.assert_close(other(batches[0]), again(batches[0]))
    supports("Weights", f"wn to torch's weight_norm ({form})", "-", "equal training steps")


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_load_in_both_directions(form: str, supports: Say) -> None:
    theirs, ours = network(form), network(None)
    train(theirs, [x()])
    zeromean.reparametrize(ours, "wn", layers=lambda name, _: name != "5")
    ours.load_state_dict(theirs.state_dict())
    batch = x()
    torch.testing.assert_close(ours(batch), theirs(batch))
    train(ours, [x()])
    theirs.load_state_dict(old_names(ours.state_dict()) if form == "hook" else ours.state_dict())
    torch.testing.assert_close(ours(batch), theirs(batch))
    supports("Weights", f"checkpoints of weight_norm ({form})", "-", "load into wn and back")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [0, None])
def test_norm_over_other_axes_keeps_the_function(form: str, dim: int | None) -> None:
    layer = normed(form, nn.ConvTranspose1d(4, 3, 2), dim=dim).double()
    batch = torch.randn(2, 4, 6, dtype=torch.float64)
    before = layer(batch)
    (change,) = from_torch(layer)
    assert change.done
    torch.testing.assert_close(layer(batch), before)
    assert layer.parametrizations.weight.original0.shape == (1, 3, 1)


@pytest.mark.parametrize("form", FORMS)
def test_fan_in_1_is_left_alone(form: str) -> None:
    layer = normed(form, nn.Linear(1, 3))
    with pytest.warns(zeromean.ZeromeanWarning, match="No weight of torch"):
        (change,) = from_torch(layer)
    assert not change.done
    assert "fan-in 1" in change.row.reason
    layer(torch.ones(2, 1)).sum().backward()
    assert len(list(layer.parameters())) == 3


@pytest.mark.parametrize("form", FORMS)
def test_embedding_is_left_alone(form: str) -> None:
    with pytest.warns(zeromean.ZeromeanWarning, match="No weight of torch"):
        (change,) = from_torch(normed(form, nn.Embedding(5, 3)))
    assert change.row.reason == "embeddings are not re-parametrized"


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.ConvTranspose1d(4, 3, 2)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_frozen_stays_frozen(form: str, layer: nn.Module) -> None:
    layer = normed(form, copy.deepcopy(layer))
    for p in layer.parameters():
        p.requires_grad_(False)
    from_torch(layer)
    assert len(list(layer.parameters())) == 3
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.ConvTranspose1d(4, 3, 2)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_frozen_v_stays_frozen(form: str, layer: nn.Module) -> None:
    layer = normed(form, copy.deepcopy(layer))
    for name, p in layer.named_parameters():
        p.requires_grad_(not name.endswith(("original1", "weight_v")))
    from_torch(layer)
    trained = {name: p.requires_grad for name, p in layer.named_parameters()}
    start = "parametrizations.weight.original"
    assert trained == {"bias": True, f"{start}0": True, f"{start}1": False}


@pytest.mark.parametrize("form", FORMS)
def test_meta_device(form: str) -> None:
    with torch.device("meta"):
        layer = normed(form, nn.Linear(4, 3))
    (change,) = from_torch(layer)
    assert change.done
    assert layer.weight.is_meta


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.other = nn.Parameter(torch.randn(2, 3))
        self.last = nn.Linear(2, 2)


zeromean.fan_in.register(_Pair)(
    lambda _: dict.fromkeys(("weight", "other", "last.weight"), zeromean.FanIn((1,)))
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", [["weight"], ["weight", "other"]], ids=str)
def test_rule_that_names_several_parameters(form: str, names: list[str]) -> None:
    model = _Pair()
    for name in names:
        normed(form, model, name=name)
    assert [change.row.name for change in from_torch(model).done] == names


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 4))


zeromean.fan_in.register(_Experts)(lambda _: {"weight": zeromean.FanIn((1,))})


def test_gains_that_torch_does_not_support_raise() -> None:
    fixed = nn.Linear(4, 3)
    zeromean.reparametrize(fixed, "wn", scale=2.0)
    for layer in (fixed, nn.ConvTranspose1d(4, 4, 2, groups=2), _Experts()):
        model = nn.Sequential(nn.Linear(4, 3), layer)
        zeromean.reparametrize(model, "wn")
        with pytest.raises(zeromean.ZeromeanError, match=r"1.weight \(axes=.*fold\(layer\)"):
            to_torch(model)
        for unchanged in model:
            assert isinstance(unchanged.parametrizations.weight[0], WeightNorm)


def test_weights_with_other_parametrizations_raise_or_stay() -> None:
    for form in ("zeromean", "torch"):
        layer = nn.Linear(4, 4)
        if form == "zeromean":
            zeromean.reparametrize(layer, "wn")
        else:
            parametrizations.weight_norm(layer)
        parametrizations.spectral_norm(layer)
        if form == "zeromean":
            with pytest.raises(zeromean.ZeromeanError, match="weight has other param"):
                to_torch(layer)
        else:
            with pytest.warns(zeromean.ZeromeanWarning, match="No weight of torch"):
                (change,) = from_torch(layer)
            assert "other parametrizations too" in change.row.reason
        assert len(layer.parametrizations.weight) == 2


def test_model_without_weight_norm_warns() -> None:
    with pytest.warns(zeromean.ZeromeanWarning, match="No weight of torch"):
        assert len(from_torch(nn.Linear(4, 3))) == 0


def test_other_methods_stay_unchanged() -> None:
    model = nn.Linear(4, 3)
    zeromean.reparametrize(model, "cwn")
    to_torch(model)
    assert "CenteredWeightNorm" in repr(model)
    with pytest.raises(RuntimeError, match="weight_g"):
        model.load_state_dict(normed("hook", nn.Linear(4, 3)).state_dict())

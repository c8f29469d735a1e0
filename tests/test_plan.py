"""Test plans: ties, options, lazy and parametrized modules, and the printed table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import zeromean


def centered(model: nn.Module, **options: object) -> dict[str, tuple[int, ...]]:
    return {row.name: row.axes for row in zeromean.explain(model, **options).centered}  # type: ignore[arg-type]


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, 3),
        nn.Linear(6, 5),
        nn.LSTM(5, 5),
        nn.Embedding(5, 5),
    )


def test_layers_selects_modules() -> None:
    model = small_network()
    convolutions = {"0.weight": (1, 2), "1.weight": (0, 2, 3)}
    others = {"2.weight": (1,), "3.weight_ih_l0": (1,), "3.weight_hh_l0": (1,)}
    assert centered(model) == convolutions | others
    assert centered(model, layers="conv") == convolutions
    assert centered(model, layers="linear") == others
    assert centered(model, layers=lambda name, module: name == "2") == {"2.weight": (1,)}
    assert centered(model, layers=lambda name, module: isinstance(module, nn.LSTM)).keys() == {
        "3.weight_ih_l0",
        "3.weight_hh_l0",
    }
    assert centered(model, embeddings=True) == convolutions | others | {"4.weight": (0,)}


def test_excluded_parameters_have_a_reason() -> None:
    rows = {row.name: row.reason for row in zeromean.explain(small_network(), layers="conv")}
    assert rows["2.weight"] == "layers='conv' leaves out 2"
    assert "embeddings=True" in rows["4.weight"]


def test_scope_tensor_uses_all_axes() -> None:
    assert centered(small_network(), scope="tensor")["0.weight"] == (0, 1, 2)
    assert centered(nn.Linear(1, 4), scope="tensor") == {"weight": (0, 1)}


@pytest.mark.parametrize("embeddings", [False, True])
def test_tied_owners_with_different_axes_are_left_alone(embeddings: bool) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    (row,) = zeromean.explain(model, embeddings=embeddings)
    assert not row.centered
    assert "tied" in row.reason
    assert "head.weight" in row.reason


def test_tied_owners_whose_groups_differ_name_them() -> None:
    model = nn.ModuleDict(
        {"a": nn.ConvTranspose1d(4, 4, 3), "b": nn.ConvTranspose1d(4, 8, 3, groups=2)}
    )
    model["b"].weight = model["a"].weight
    row = next(row for row in zeromean.explain(model) if row.name == "a.weight")
    assert row.reason.endswith("a.weight has axes (0, 2), b.weight has axes (0, 2) in 2 groups")


def test_tied_owners_with_equal_axes_share_a_row() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    assert centered(model) == {"a.weight": (1,)}
    assert centered(model, layers=lambda name, module: name == "a") == {}


def test_module_used_twice_is_one_row() -> None:
    layer = nn.Linear(3, 3)
    assert centered(nn.ModuleList([layer, layer])) == {"0.weight": (1,)}


def test_parameters_of_an_undescribed_module_are_left_alone() -> None:
    class ClassToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 16, 8))

    (row,) = zeromean.explain(ClassToken())
    assert not row.centered
    assert "ClassToken" in row.reason


def test_lazy_module_raises() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(zeromean.ZeromeanError, match=r"0\.weight.*lazy.*forward"):
        zeromean.explain(model)
    model(torch.ones(1, 4))
    assert centered(model) == {"0.weight": (1,)}


@pytest.mark.parametrize("model", [None, nn.Linear(3, 2)], ids=["no model", "other model"])
def test_lazy_parameter_outside_the_model_raises(model: nn.Module | None) -> None:
    held = [] if model is None else [*model.parameters()]
    optimizer = torch.optim.SGD([*held, *nn.LazyLinear(3).parameters()], lr=0.1)
    with pytest.raises(zeromean.ZeromeanError, match=r"parameter \d is a lazy.*forward"):
        zeromean.centralize(optimizer, model)


@pytest.mark.filterwarnings("ignore:Without a model")
@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_frozen_weights_without_a_mean_are_left_alone(dtype: torch.dtype, with_model: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    codes = torch.ones(3, 4).to(dtype)
    model[0].weight = nn.Parameter(codes, requires_grad=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model if with_model else None, at="update")
    (first, *_) = handle.plan
    assert not first.centered
    assert str(dtype) in first.reason
    model[1].weight.grad = torch.ones(2, 3)
    optimizer.step()


def test_parametrized_weight_uses_the_rule_of_its_owner() -> None:
    layer = parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    assert centered(layer) == {"parametrizations.weight.original": (1, 2, 3)}
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, buffers[name]), f"explain moved {name}"


def test_parametrization_that_changes_the_shape_is_left_alone() -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x])

    layer = nn.Linear(3, 4, bias=False)
    layer.weight = nn.Parameter(torch.randn(2, 3))
    parametrize.register_parametrization(layer, "weight", Doubled(), unsafe=True)
    (row,) = zeromean.explain(layer)
    assert not row.centered
    assert "changes its shape" in row.reason


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("weight_norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_torch_weight_norm_points_to_from_torch(weight_norm: Any) -> None:
    layer = weight_norm(nn.Linear(3, 4))
    rows = [row for row in zeromean.explain(layer) if row.name != "bias"]
    assert len(rows) == 2
    assert not any(row.centered for row in rows)
    assert all("torch's weight_norm computes weight" in row.reason for row in rows)
    assert all("zeromean.reparam.from_torch(model)" in row.reason for row in rows)
    zeromean.reparam.from_torch(layer)
    assert len(zeromean.explain(layer).centered) == 1


def test_parametrization_that_cannot_be_copied_is_left_alone() -> None:
    class Cached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache = x * 2
            return self.cache

    layer = nn.Linear(3, 4, bias=False)
    parametrize.register_parametrization(layer, "weight", Cached())
    layer(torch.ones(1, 3))
    assert not zeromean.explain(layer).centered


def test_empty_parameter_is_left_alone() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.ones(0, 4))
    assert not zeromean.explain(layer)[0].centered


def test_embedding_of_its_padding_row_alone_is_left_alone() -> None:
    (row,) = zeromean.explain(nn.Embedding(1, 4, padding_idx=0), embeddings=True)
    assert not row.centered
    assert "no entries" in row.reason


def test_table_shows_every_parameter() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(8, 6, 3, groups=2), nn.BatchNorm2d(6))
    lines = str(zeromean.explain(model)).splitlines()
    assert lines[0].split() == ["parameter", "shape", "role", "axes", "centered", "reason"]
    assert lines[1].split("  ")[0] == "0.weight"
    assert "0,2,3 in 2 groups" in lines[1]
    assert len(lines) == 1 + 4 + 1
    assert lines[-1] == "centered: 1 of 4 parameters, 216 of 234 entries"


def test_explain_rejects_invalid_input() -> None:
    model = nn.Linear(3, 2)
    handle = zeromean.centralize(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert [row.name for row in zeromean.explain(handle).centered] == ["weight"]
    with pytest.raises(
        zeromean.ZeromeanError, match="explain received layers together with a Handle"
    ):
        zeromean.explain(handle, layers="conv")
    with pytest.raises(zeromean.ZeromeanError, match="explain received a dict"):
        zeromean.explain({})  # type: ignore[arg-type]
    with pytest.raises(zeromean.ZeromeanError, match='layers="convs"'):
        zeromean.explain(model, layers="convs")  # type: ignore[arg-type]


class Raw(nn.Module):
    """A layer without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))


class OwnLinear(Raw):
    pass


def test_undescribed_majority_is_reported() -> None:
    model = nn.Sequential(nn.Linear(6, 4), Raw(), OwnLinear(), nn.LayerNorm(6))
    (report,) = {
        zeromean.explain(model).undescribed(),
        str(zeromean.explain(model)).split("\n")[-1],
    }
    assert report.startswith("71% of the matrix entries")  # 60 of 84
    assert "Raw (1.weight), OwnLinear (2.weight)" in report
    assert "zeromean.fan_in.register" in report
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(zeromean.ZeromeanWarning, match="71% of the matrix entries"):
        zeromean.centralize(optimizer, model)
    # Only parameters of the optimizer count, and exactly half is not a majority.
    zeromean.centralize(torch.optim.SGD(model[0].parameters(), lr=0.1), model)
    half = nn.Sequential(nn.Linear(6, 5), Raw())
    assert zeromean.explain(half).undescribed() == ""
    zeromean.centralize(torch.optim.SGD(half.parameters(), lr=0.1), half)


def test_undescribed_optimizer_warns_once() -> None:
    model = Raw()
    with pytest.warns(zeromean.ZeromeanWarning, match=r"Nothing is centered\. 100%.*Raw") as caught:
        zeromean.centralize(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert len(caught) == 1


def test_centralize_after_cwn_warns_with_the_reason() -> None:
    model = nn.Linear(6, 5)
    zeromean.reparametrize(model, "cwn")
    with pytest.warns(zeromean.ZeromeanWarning, match=r"gradient of 1 of its weights zero-mean"):
        zeromean.centralize(torch.optim.SGD(model.parameters(), lr=0.1), model)


def test_repr_is_one_line_and_html_is_escaped() -> None:
    plan = zeromean.explain(nn.Linear(3, 2))
    assert repr(plan) == "Plan(centered: 1 of 2 parameters, 6 of 8 entries)"
    assert plan._repr_html_().count("<tr>") == 3
    odd = nn.ModuleDict({"<b>": nn.Linear(3, 2)})
    assert "&lt;b&gt;.weight" in zeromean.explain(odd)._repr_html_()


def test_explain_and_status_report_how_steps_are_made() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, fused=False)
    assert str(zeromean.explain(handle)).endswith("\nstep: two passes (fused=False)")
    assert "; step: two passes (fused=False)" in str(zeromean.status(optimizer))
    assert zeromean.explain(handle).rows == handle.plan.rows
    assert repr(handle).startswith("<Handle of SGD: at=gradient, layers=all")


def test_explain_looks_inside_optimizers() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, fused=False)
    for subject in (optimizer, zeromean.optim.Lookahead(optimizer)):
        assert zeromean.explain(subject) == zeromean.explain(handle)
    ranger = zeromean.optim.Ranger(model)
    assert zeromean.explain(ranger) == zeromean.explain(model)
    handle.remove()
    with pytest.raises(zeromean.ZeromeanError, match="received a SGD, which is neither"):
        zeromean.explain(optimizer)

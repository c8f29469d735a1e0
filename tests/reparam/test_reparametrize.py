"""``reparametrize`` and ``fold`` on whole models."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from reparam_layers import LAYERS, METHODS, vectors_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import zeromean
from zeromean.reparam import NaturalLinear

Say = Any


class Network(nn.Module):
    """Layers of every kind, with some that must be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 4, 3, groups=2)
        self.lone = nn.Conv1d(4, 4, 1, groups=4)
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.conv(self.embed(tokens).mT)).relu()
        x, _ = self.rnn(self.lone(self.up(x)).mT)
        x, _ = self.attention(x, x, x)
        return self.head(x.mean(1))


DESCRIBED = {
    "conv.weight", "up.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0",
    "attention.in_proj_weight", "attention.out_proj.weight", "head.weight",
}  # fmt: skip


def batch() -> Tensor:
    return torch.randint(9, (4, 7))


def step(model: nn.Module, tokens: Tensor, rate: float = 0.1) -> None:
    model.zero_grad()
    model(tokens).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(p.grad, alpha=rate)


@pytest.mark.parametrize("method", METHODS)
def test_every_described_weight_is_converted_and_trained(method: Any, supports: Say) -> None:
    model, tokens = Network(), batch()
    report = zeromean.reparametrize(model, method)
    assert {change.row.name for change in report.done} == DESCRIBED
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = {name: _get(model, name).detach().clone() for name in DESCRIBED}
    for _ in range(3):
        step(model, tokens)
    for name in DESCRIBED:
        assert not torch.equal(_get(model, name), weights[name]), name
    for name, p in model.named_parameters():
        if "parametrizations" in name:
            assert not torch.equal(p, before[name]), name
    if method != "wn":
        for change in report.done:
            fan_in = change.row.fan_in
            assert fan_in is not None
            weight = _get(model, change.row.name).detach()
            centered = zeromean.center(weight, fan_in.axes, fan_in.groups)
            torch.testing.assert_close(weight, centered, rtol=0, atol=1e-6)
    supports("Weights", f"{method} of RNNs and attention", "-", "converted, trained, zero-mean")


def _get(model: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(owner), attribute)
    return weight


def test_report_gives_a_reason_for_each_parameter() -> None:
    model = Network()
    model.head.weight = model.attention.out_proj.weight  # tied; the shapes do not matter here
    model.norm.extra = nn.Linear(5, 2)
    prune.l1_unstructured(model.norm.extra, "weight", amount=2)
    model.lone.other = parametrizations.spectral_norm(nn.Linear(4, 4))
    model.lone.hooked = nn.utils.spectral_norm(nn.Linear(4, 4))
    report = zeromean.reparametrize(model, "cwn", layers=lambda name, _: name != "up")
    reasons = {change.row.name: change.row.reason for change in report if not change.done}
    assert "tied" in reasons["attention.out_proj.weight"]
    assert "pruned" in reasons["norm.extra.weight_orig"]
    assert "already parametrized" in reasons["lone.other.parametrizations.weight.original"]
    assert "spectrally normalized" in reasons["lone.hooked.weight_orig"]
    assert "fan-in 1" in reasons["lone.weight"]
    assert "leaves out up" in reasons["up.weight"]
    assert reasons["embed.weight"] == "embeddings are not re-parametrized"
    assert "norm" in reasons["norm.weight"]
    assert "bias" in reasons["head.bias"]
    assert {change.row.name for change in report.done} == DESCRIBED - {
        "head.weight", "attention.out_proj.weight", "up.weight",
    }  # fmt: skip
    text = str(report)
    for change in report:
        assert change.row.name in text
        assert change.row.reason in text
    assert text.splitlines()[0].split() == [
        "parameter", "shape", "role", "axes", "cwn", "moved", "reason",
    ]  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_wn_preserves_the_function(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    before = layer(x)
    report = zeromean.reparametrize(layer, "wn")
    torch.testing.assert_close(layer(x), before)
    assert all(change.moved < 1e-14 and change.mean_lost == 0 for change in report)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["cwn", "ws"])
def test_only_the_mean_is_lost_and_reported(name: str, method: Any) -> None:
    make, shape = LAYERS[name]
    layer = make().double()
    vectors = vectors_of(layer, shape)
    old = layer.weight.detach().clone()
    report = zeromean.reparametrize(layer, method, scale="learned")
    expected, means = old.clone(), torch.zeros_like(old)
    for mask in vectors:
        expected[mask] -= old[mask].mean()
        means[mask] = old[mask].mean()
    torch.testing.assert_close(layer.weight.detach(), expected)
    (change,) = report.done
    assert change.mean_lost == pytest.approx(float(means.norm() / old.norm()))
    assert change.moved == pytest.approx(change.mean_lost)
    assert f"{100 * change.mean_lost:.1f} %" in str(report)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["cwn", "ws"])
def test_mean_keep_preserves_the_function(name: str, method: Any, supports: Say) -> None:
    make, shape = LAYERS[name]
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    before = layer(x)
    report = zeromean.reparametrize(layer, method, scale="learned", mean="keep")
    torch.testing.assert_close(layer(x), before)
    (change,) = report.done
    assert change.moved < 1e-14
    assert change.mean_lost == 0
    offset = layer.parametrizations.weight[0].mean  # type: ignore[index, union-attr]
    kept = offset.clone()
    step(layer, x)
    assert torch.equal(offset, kept)
    assert not offset.requires_grad
    assert any("mean" in key for key in layer.state_dict())
    supports("Weights", f'{method}, mean="keep"', "-", "function unchanged at conversion")


@pytest.mark.parametrize("method", METHODS)
def test_init_unit_starts_from_gains_of_1(method: Any) -> None:
    layer = nn.Linear(6, 4)
    zeromean.reparametrize(layer, method, scale="learned", init="unit")
    lengths = layer.weight.detach().norm(dim=1)
    expected = 6**0.5 if method == "ws" else 1.0
    torch.testing.assert_close(lengths, torch.full((4,), expected), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(layer.parametrizations.weight.original0, torch.ones(4, 1))


@pytest.mark.parametrize("method", METHODS)
def test_fixed_scale_is_not_a_parameter(method: Any) -> None:
    layer = nn.Linear(6, 4)
    weight = layer.weight
    zeromean.reparametrize(layer, method, scale=2.0)
    assert [name for name, _ in layer.named_parameters()] == [
        "bias", "parametrizations.weight.original",
    ]  # fmt: skip
    assert layer.parametrizations.weight.original is weight  # an optimizer may know it already
    lengths = layer.weight.detach().norm(dim=1)
    expected = 2 * 6**0.5 if method == "ws" else 2.0
    torch.testing.assert_close(lengths, torch.full((4,), expected), rtol=1e-2, atol=1e-3)


def test_ws_has_no_gain_by_default_and_accepts_eps() -> None:
    layer = nn.Linear(6, 4, bias=False)
    old = layer.weight.detach().clone()
    report = zeromean.reparametrize(layer, "ws", eps=0.5)
    deviations = (old.var(1, correction=0, keepdim=True) + 0.5).sqrt()
    torch.testing.assert_close(layer.weight, (old - old.mean(1, keepdim=True)) / deviations)
    assert report[0].moved > 0.1
    assert [name for name, _ in layer.named_parameters()] == ["parametrizations.weight.original"]


@pytest.mark.parametrize("method", METHODS)
def test_assigned_weight_is_preserved(method: Any) -> None:
    layer = nn.Linear(6, 4)
    zeromean.reparametrize(layer, method, scale="learned")
    wanted = zeromean.center(torch.randn(4, 6), 1)
    layer.weight = wanted.clone()
    torch.testing.assert_close(layer.weight.detach(), wanted)


@pytest.mark.parametrize("scale", ["learned", 1.5])
def test_assigned_tensor_is_not_trained(scale: Any) -> None:
    layer, other = nn.Linear(6, 4), nn.Linear(6, 4)
    zeromean.reparametrize(layer, "cwn", scale=scale)
    layer.weight = other.weight.detach()
    before = other.weight.detach().clone()
    step(layer, torch.randn(3, 6))
    assert torch.equal(other.weight, before)


# --- invalid options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "cnw"}, 'one of "wn", "cwn", "ws", "nnn"'),
        ({"method": "cwn", "init": "zero"}, '"preserve", "unit"'),
        ({"method": "cwn", "mean": "lose"}, '"drop", "keep"'),
        ({"method": "cwn", "scale": "fixed"}, "positive number"),
        ({"method": "cwn", "scale": 0.0}, "positive number"),
        ({"method": "cwn", "scale": True}, "positive number"),
        ({"method": "cwn", "scale": float("nan")}, "positive number"),
        ({"method": "cwn", "scale": np.ones(2)}, "positive number"),
        ({"method": "cwn", "eps": 1e-5}, "Leave eps out"),
        ({"method": "ws", "eps": -1.0}, "positive number"),
        ({"method": "wn", "mean": "keep"}, "Leave mean out"),
        ({"method": "cwn", "init": "unit", "scale": 2.0}, "Leave init out"),
        ({"method": "ws", "init": "unit"}, 'scale="learned"'),
        ({"method": "cwn", "every": 10}, "Leave every out"),
        ({"method": "nnn", "every": 0}, "positive whole number"),
        ({"method": "nnn", "scale": "learned"}, "Leave scale out"),
        ({"method": "nnn", "init": "unit"}, "Leave init out"),
        ({"method": "nnn", "mean": "keep"}, "Leave mean out"),
        ({"method": "cwn", "layers": "dense"}, '"all", "conv", "linear"'),
    ],
    ids=str,
)
def test_unknown_or_ineffective_options_raise(options: Any, words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(zeromean.ZeromeanError, match=words):
        zeromean.reparametrize(model, **options)
    assert not parametrize.is_parametrized(model[0])


def test_other_objects_and_lazy_modules_raise() -> None:
    for verb in (zeromean.fold, lambda m: zeromean.reparametrize(m, "cwn")):
        with pytest.raises(zeromean.ZeromeanError, match=r"torch\.nn\.Module"):
            verb([nn.Linear(3, 2)])
    with pytest.raises(zeromean.ZeromeanError, match="lazy"):
        zeromean.reparametrize(nn.LazyLinear(3), "cwn")


def test_model_without_layers_warns() -> None:
    with pytest.warns(zeromean.ZeromeanWarning, match="Nothing is re-parametrized"):
        zeromean.reparametrize(nn.BatchNorm1d(3), "cwn")


def test_second_call_leaves_weights_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    zeromean.reparametrize(model, "cwn")
    for method in ("cwn", "wn"):
        with pytest.warns(zeromean.ZeromeanWarning, match="Nothing is re-parametrized"):
            report = zeromean.reparametrize(model, method)
        assert "already" in str(report)
    assert len(model[0].parametrizations.weight) == 1


def test_parameters_with_gradient_hooks_are_left_alone() -> None:
    """An optimizer that steps in backward would lose its hooks."""
    model, called = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2)), []
    model[0].weight.register_post_accumulate_grad_hook(lambda _: called.append(0))
    model[1].weight.register_hook(lambda _: called.append(1))
    report = zeromean.reparametrize(model, "cwn")
    assert [change.row.name for change in report.done] == ["2.weight"]
    assert "gradient hooks" in str(report)
    model(torch.randn(2, 4)).sum().backward()
    assert sorted(called) == [0, 1]


@pytest.mark.parametrize(
    ("method", "fill", "warns"),
    [("wn", 0.0, True), ("cwn", 0.0, True), ("cwn", 0.3, True), ("wn", 0.3, False),
     ("ws", 0.0, False)],
)  # fmt: skip
def test_zero_initialized_layer_warns(method: Any, fill: float, warns: bool) -> None:
    """The first step gives each vector the length g, so the output is no longer near zero."""
    layer = nn.Linear(4, 3)
    nn.init.constant_(layer.weight[:2], fill)
    before = layer.weight.detach().clone()
    if warns:
        with pytest.warns(zeromean.ZeromeanWarning, match="weight: 2 of its .* Leave layers"):
            zeromean.reparametrize(layer, method)
    else:
        zeromean.reparametrize(layer, method, scale="learned")
    step(layer, torch.randn(5, 4), rate=1e-4)
    moved = (layer.weight - before + (0 if method == "wn" else before.mean(1, keepdim=True))).norm()
    assert (moved > 1) == warns
    zeromean.reparametrize(nn.Linear(4, 3, device="meta"), method)  # has no values to look at


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_unsupported_types_are_left_alone(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].weight = nn.Parameter(model[0].weight.detach().to(dtype), requires_grad=False)
    report = zeromean.reparametrize(model, "cwn")
    assert [change.row.name for change in report.done] == ["1.weight"]
    assert f"type {dtype} are not supported" in report[0].row.reason


def test_parameter_with_padding_row_is_left_alone() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))

    model = nn.Sequential(Table(), nn.Linear(4, 3))
    rule = lambda _: {"table": zeromean.FanIn(axes=(0,), padding_idx=0)}  # noqa: E731
    zeromean.fan_in.register(Table)(rule)
    report = zeromean.reparametrize(model, "cwn")
    assert [change.row.name for change in report.done] == ["1.weight"]
    assert "padding row" in report[0].row.reason


def test_torchscript_raises() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(zeromean.ZeromeanError, match=r"TorchScript.*before torch\.jit"):
        zeromean.reparametrize(scripted, "cwn")
    mixed = nn.Sequential(nn.Linear(4, 3), torch.jit.script(nn.ReLU()))
    assert len(zeromean.reparametrize(mixed, "cwn").done) == 1


@pytest.mark.parametrize("moved", [False, True])
def test_deepcopy_of_an_rnn_that_has_run(moved: bool) -> None:
    """An RNN holds the weights that it last computed with."""
    model, x = nn.Sequential(nn.LSTM(4, 5, num_layers=2, bidirectional=True)), torch.randn(2, 3, 4)
    zeromean.reparametrize(model, "cwn")
    if moved:
        model.double().float()
    else:
        model(x)[0].sum().backward()
    copied = copy.deepcopy(model)
    step(first := _First(copied), x)
    assert not torch.equal(first(x), model(x)[0])
    twin = _First(copy.deepcopy(model))
    step(twin, x)
    torch.testing.assert_close(twin(x), first(x))
    assert torch.equal(zeromean.fold(twin)(x), first(x))


class _First(nn.Module):
    """The first output of an RNN."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.rnn(x)[0]
        return output


def test_gains_that_float16_cannot_hold_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 2)).half()
    with torch.no_grad():
        model[1].weight[1] = torch.tensor([60000.0, -60000, 60000, -60000])
    with pytest.raises(zeromean.ZeromeanError, match=r"1\.weight .* length 1\.2e\+05,.*6\.55e\+04"):
        zeromean.reparametrize(model, "cwn")
    assert not any(parametrize.is_parametrized(layer) for layer in model)
    zeromean.reparametrize(model, "cwn", init="unit")
    assert model[1].weight.isfinite().all()


def test_proxy_with_changed_memory_layout_is_prepared_again(backend: str) -> None:
    layer = nn.Conv2d(3, 4, 2).double()
    zeromean.reparametrize(layer, "cwn", init="unit")
    for change in (
        lambda: layer.to(memory_format=torch.channels_last),
        lambda: setattr(
            layer.parametrizations.weight.original1,
            "data",
            torch.randn(4, 2, 2, 3).double().permute(0, 3, 1, 2),
        ),
        layer.float,
    ):
        _ = layer.weight.sum()
        change()
        v = layer.parametrizations.weight.original1.detach().double().flatten(1)
        x = v - v.mean(1, keepdim=True)
        exact = (x / x.norm(dim=1, keepdim=True)).view_as(layer.weight)
        torch.testing.assert_close(layer.weight.double(), exact, rtol=1e-6, atol=1e-7)


# --- fold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "nnn"])
def test_fold_restores_the_plain_model(method: Any, backend: str, supports: Say) -> None:
    model, tokens = Network(), batch()
    plain = copy.deepcopy(model)
    zeromean.reparametrize(model, method)
    for _ in range(3):
        step(model, tokens)
    model.eval()
    weights = {name: _get(model, name).detach().clone() for name in DESCRIBED}
    outputs = model(tokens)
    assert zeromean.fold(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    for name, weight in weights.items():
        assert torch.equal(_get(model, name), weight)
        assert _get(model, name).requires_grad
    torch.testing.assert_close(model(tokens), outputs)
    if method != "nnn":
        assert torch.equal(model(tokens), outputs)
        pickle.loads(pickle.dumps(model))
    plain.load_state_dict(model.state_dict())
    supports("Weights", f"fold of {method}", "-", "bit-equal weights, the plain model's state_dict")


@pytest.mark.parametrize("method", METHODS)
def test_folding_a_copy_leaves_the_original(method: Any) -> None:
    """torch stores the property on a class that both share."""
    model, tokens = Network(), batch()
    zeromean.reparametrize(model, method)
    copied = copy.deepcopy(model)
    zeromean.fold(copied)
    step(model, tokens)
    assert parametrize.is_parametrized(model.head)
    model.eval()
    before = model(tokens)
    assert torch.equal(zeromean.fold(model)(tokens), before)
    step(copied, tokens)


@pytest.mark.parametrize("scale", ["learned", 1.5])
@pytest.mark.parametrize("grad", [True, False])
def test_fold_keeps_frozen_weights_frozen(scale: Any, grad: bool) -> None:
    layer = nn.Linear(4, 3)
    layer.weight.requires_grad_(False)
    zeromean.reparametrize(layer, "cwn", scale=scale)
    assert not any(p.requires_grad for n, p in layer.named_parameters() if n != "bias")
    with torch.set_grad_enabled(grad):
        zeromean.fold(layer)
    assert isinstance(layer.weight, nn.Parameter)
    assert not layer.weight.requires_grad
    thawed = nn.Linear(4, 3)
    zeromean.reparametrize(thawed, "cwn", scale=scale)
    with torch.set_grad_enabled(grad):
        zeromean.fold(thawed)
    assert isinstance(thawed.weight, nn.Parameter)
    assert thawed.weight.requires_grad


def test_fold_of_a_weight_with_other_parametrizations_raises() -> None:
    layer = nn.Linear(4, 4)
    zeromean.reparametrize(layer, "cwn")
    parametrizations.spectral_norm(layer)
    with pytest.raises(zeromean.ZeromeanError, match="other parametrizations too"):
        zeromean.fold(layer)
    assert "CenteredWeightNorm of Linear" in str(zeromean.explain(layer))


def test_fold_of_a_plain_model_does_nothing() -> None:
    model = Network()
    before = copy.deepcopy(model.state_dict())
    zeromean.fold(model)
    torch.testing.assert_close(model.state_dict(), before)


# --- centralize on top ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", ["learned", 1.5])
def test_plan_marks_zero_mean_proxies(method: Any, scale: Any, supports: Say) -> None:
    model = Network()
    plain = {row.name: row for row in zeromean.explain(model)}
    zeromean.reparametrize(model, method, scale=scale)
    rows = {row.name: row for row in zeromean.explain(model)}
    for name in DESCRIBED:
        owner, _, attribute = name.rpartition(".")
        stem = f"{owner}.parametrizations.{attribute}.original"
        v = rows[stem + ("1" if scale == "learned" else "")]
        assert (v.axes, v.groups, v.role) == tuple(
            getattr(plain[name], key) for key in ("axes", "groups", "role")
        )
        assert v.centered == (method == "wn")
        assert (method == "wn") != ("zero-mean already" in v.reason)
        if scale == "learned":
            assert not rows[stem + "0"].centered
            assert "gain" in rows[stem + "0"].reason
    supports("Weights", f"{method} with GC on top", "-", "plan: zero-mean already, or v's own axes")


@pytest.mark.parametrize("method", ["cwn", "ws"])
def test_gradients_of_zero_mean_proxies_are_zero_mean(method: Any) -> None:
    model = Network().double()
    zeromean.reparametrize(model, method)
    model(batch()).square().mean().backward()
    proxies = [row for row in zeromean.explain(model) if row.zero_mean_already]
    assert len(proxies) == len(DESCRIBED)
    for row in proxies:
        grad = row.parameter.grad
        centered = zeromean.center(grad, row.axes, row.groups)
        torch.testing.assert_close(grad, centered, rtol=0, atol=1e-13)


def test_weight_with_a_pruned_bias_is_converted() -> None:
    layer = prune.l1_unstructured(nn.Linear(4, 3), "bias", amount=1)
    x = torch.ones(2, 4)
    before = layer(x)
    report = zeromean.reparametrize(layer, "wn")
    assert [change.row.name for change in report.done] == ["weight"]
    torch.testing.assert_close(layer(x), before)
    zeromean.fold(layer)
    torch.testing.assert_close(layer(x), before)
    assert sorted(name for name, _ in layer.named_parameters()) == ["bias_orig", "weight"]


@pytest.mark.parametrize(("scale", "original"), [("learned", "original1"), (1.0, "original")])
def test_pruned_proxy_is_centered_and_folds(scale: Any, original: str) -> None:
    layer: Any = nn.Linear(4, 3)
    zeromean.reparametrize(layer, "wn", scale=scale)
    prune.l1_unstructured(layer.parametrizations.weight, original, amount=2)
    (row,) = zeromean.explain(layer).centered
    assert row.name == f"parametrizations.weight.{original}_orig"
    before = layer(torch.ones(1, 4))
    assert torch.equal(zeromean.fold(layer)(torch.ones(1, 4)), before)


def test_gc_on_top_of_wn_centers_the_gradients_of_proxies() -> None:
    model = Network().double()
    zeromean.reparametrize(model, "wn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    rows = zeromean.explain(model).centered
    assert len(rows) == len(DESCRIBED)
    before = [row.parameter.detach().clone() for row in rows]
    model(batch()).square().mean().backward()
    optimizer.step()
    for row, old in zip(rows, before, strict=True):
        change = row.parameter.detach() - old
        assert change.any()
        centered = zeromean.center(change, row.axes, row.groups)
        torch.testing.assert_close(change, centered, rtol=0, atol=1e-14)


def test_zero_mean_weights_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    zeromean.reparametrize(model, "cwn", layers="conv")
    plan = zeromean.explain(model)
    assert "conv    1,2,3  already   CenteredWeightNorm of Conv2d" in str(plan)
    assert plan.total() == (
        "centered: 1 of 5 parameters, 16 of 250 entries; zero-mean already by re-parametrization:"
        " 1 parameters, 216 entries"
    )
    zeromean.centralize(torch.optim.SGD(model.parameters(), lr=0.1), model)  # the linear layer
    zeromean.reparametrize(model, "cwn", layers="linear")
    with pytest.warns(zeromean.ZeromeanWarning, match=r"gradient of 2 .* leave centralize"):
        zeromean.centralize(torch.optim.SGD(model.parameters(), lr=0.1), model)


# --- natural re-parametrization -------------------------------------------------------------------


def test_nnn_gives_a_reason_for_each_layer_left_alone() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Conv1d(4, 4, 3), nn.Linear(4, 2)
    )
    model[3].register_forward_hook(lambda *_: None)
    report = zeromean.reparametrize(model, "nnn")
    assert [change.row.name for change in report.done] == ["0.weight"]
    reasons = {change.row.name: change.row.reason for change in report}
    assert "needs a bias" in reasons["1.weight"]
    assert "Conv1d" in reasons["2.weight"]
    assert "hooks" in reasons["3.weight"]
    assert isinstance(model[0], NaturalLinear)
    with pytest.warns(zeromean.ZeromeanWarning, match="Nothing"):
        report = zeromean.reparametrize(nn.Linear(3, 2), "nnn")
    assert "the model itself" in report[0].row.reason

"""The natural re-parametrization: whitened inputs and an unchanged function."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zeromean
from zeromean.reparam import NaturalLinear

Say = Any


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def inputs(rows: int = 64) -> torch.Tensor:
    mixing = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return 3 + torch.randn(rows, 6, dtype=torch.float64) @ mixing


def test_conversion_and_estimates_keep_the_function(supports: Say) -> None:
    model, x = network(), inputs()
    before = model(x)
    zeromean.reparametrize(model, "nnn", every=2)
    torch.testing.assert_close(model(x), before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    estimates = 0
    for _ in range(7):
        x = torch.randn(64, 6, dtype=torch.float64)
        plain = zeromean.fold(copy.deepcopy(model))
        whitening = model[0].U.clone()
        output = model(x)  # may estimate again
        estimates += not torch.equal(whitening, model[0].U)
        torch.testing.assert_close(output, plain(x), rtol=1e-9, atol=1e-9)
        optimizer.zero_grad()
        output.square().mean().backward()
        optimizer.step()
    assert estimates == 3  # after 2, 4 and 6 updates; the first was at once, above
    supports("Weights", "nnn", "-", "function unchanged at each estimate, float64")


def test_estimate_whitens_the_inputs() -> None:
    model, x = network(), inputs(500)
    zeromean.reparametrize(model, "nnn", eps=1e-8)
    model(x)
    whitened = F.linear(x - model[0].c, model[0].U)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-9)
    assert (whitened.T.cov(correction=0) - torch.eye(6)).abs().max() < 1e-3
    hidden = model[1](model[0](x))
    whitened = F.linear(hidden - model[2].c, model[2].U)
    assert (whitened.T.cov(correction=0) - torch.eye(5)).abs().max() < 1e-3


def test_eps_is_added_to_the_variances() -> None:
    model, x = network(), inputs(500)
    zeromean.reparametrize(model, "nnn", eps=0.5)
    model(x)
    covariance = x.T.cov(correction=0) + 0.5 * torch.eye(6).double()
    whitening = model[0].U
    torch.testing.assert_close(whitening @ covariance @ whitening, torch.eye(6).double())


def test_update_follows_the_natural_gradient() -> None:
    """dW = -lr dL/dW U^2 (of the centered inputs), by hand on one layer."""
    layer, x = nn.Sequential(nn.Linear(6, 2)).double(), inputs()
    zeromean.reparametrize(layer, "nnn")
    layer(x)
    whitening, mean = layer[0].U.clone(), layer[0].c.clone()
    weight = layer[0].weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    output = layer(x)
    output.square().mean().backward()
    optimizer.step()
    delta = 2 * output.detach() / output.numel()
    expected = weight - 0.1 * delta.T @ (x - mean) @ whitening @ whitening
    torch.testing.assert_close(layer[0].weight.detach(), expected)


@pytest.mark.parametrize("shape", [(6,), (2, 6), (64, 6), (4, 16, 6), (0, 6)])
def test_few_and_many_inputs_follow_the_formula(shape: tuple[int, ...]) -> None:
    model = network()[:1]
    zeromean.reparametrize(model, "nnn")
    layer = model[0]
    layer(inputs())
    layer.eval()  # estimates no more
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    leaves = [x, layer.v, layer.d]
    output = layer(x)
    formula = (x - layer.c) @ layer.U.mT @ layer.v.mT + layer.d
    torch.testing.assert_close(output, formula)
    for got, wanted in zip(
        torch.autograd.grad(output.square().sum(), leaves),
        torch.autograd.grad(formula.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_forward_passes_without_update_do_not_count() -> None:
    """Accumulation, two forward passes, evaluation and checkpointing are not updates."""
    model, x = network(), inputs()
    zeromean.reparametrize(model, "nnn", every=3)
    model(x)
    whitening = model[0].U.clone()
    for _ in range(5):
        model(x).square().mean().backward()
    model.eval()
    model(x)
    model.train()
    with torch.no_grad():
        model(x)
    torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).sum().backward()
    assert torch.equal(model[0].U, whitening)
    assert int(model[0].updates) == 0
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(3):
        optimizer.step()
        model(inputs())
        model(inputs())
        assert torch.equal(model[0].U, whitening) == (step < 2)


def test_checkpoint_and_copy_continue_training() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn", every=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs()).square().mean().backward()
        optimizer.step()
    fresh = network()
    zeromean.reparametrize(fresh, "nnn", every=4)
    fresh.load_state_dict(model.state_dict())
    x = inputs()
    fresh.eval(), model.eval()
    torch.testing.assert_close(fresh(x), model(x))
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x))
    assert list(model.state_dict()) == [
        f"{n}.{key}" for n in (0, 2) for key in ("v", "d", "U", "c", "updates")
    ]


def test_reset_parameters_starts_from_the_plain_initialization() -> None:
    plain, model = nn.Sequential(nn.Linear(6, 5)).double(), nn.Sequential(nn.Linear(6, 5)).double()
    zeromean.reparametrize(model, "nnn")
    model(inputs())
    for module in (plain, model):
        torch.manual_seed(3)
        module[0].reset_parameters()
    x = inputs()
    torch.testing.assert_close(model.eval()(x), plain(x))
    model.train()(x)
    covariance = x.T.cov(correction=0) + 0.1 * torch.eye(6).double()  # of the new inputs alone
    whitening = model[0].U
    torch.testing.assert_close(whitening @ covariance @ whitening, torch.eye(6).double())


def test_estimate_uses_exactly_the_latest_samples() -> None:
    layer = NaturalLinear(nn.Linear(6, 2).double(), every=1, samples=10)
    batches = [inputs(rows) for rows in (7, 4, 5, 3, 25)]
    for number, x in enumerate(batches):
        with torch.no_grad():
            layer.v.add_(1)  # one update
        layer(x)
        latest = torch.cat(batches[: number + 1])[-10:]
        torch.testing.assert_close(layer.c, latest.mean(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every=0 is not a positive whole number"),
        ({"eps": 0.0}, r"eps=0\.0 is not a positive number"),
        ({"samples": 1.5}, r"samples=1\.5 is not a positive whole number"),
    ],
    ids=str,
)
def test_invalid_layers_and_options_raise(options: Any, words: str) -> None:
    with pytest.raises(zeromean.ZeromeanError, match=words):
        NaturalLinear(nn.Linear(4, 3), **options)
    with pytest.raises(zeromean.ZeromeanError, match="no bias"):
        NaturalLinear(nn.Linear(4, 3, bias=False))


def test_empty_batch_postpones_the_first_estimate() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn")
    model(inputs(0))
    assert torch.equal(model[0].U, torch.eye(6).double())
    model(inputs())
    assert not torch.equal(model[0].U, torch.eye(6).double())


def test_nonfinite_batch_is_not_estimated_from() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn")
    assert model(torch.full((4, 6), float("nan")).double()).isnan().all()
    assert model[0].U.isfinite().all()
    assert model[0].v.isfinite().all()


def test_fold_and_frozen_layers() -> None:
    model, x = network(), inputs()
    model[2].weight.requires_grad_(False)
    zeromean.reparametrize(model, "nnn")
    model(x)
    before = model.eval()(x)
    zeromean.fold(model)
    assert type(model[0]) is nn.Linear
    assert not model[0].training
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    torch.testing.assert_close(model(x), before)
    single = NaturalLinear(nn.Linear(4, 3))
    folded = zeromean.fold(single)
    assert type(folded) is nn.Linear
    torch.testing.assert_close(folded(torch.ones(1, 4)), single(torch.ones(1, 4)))


def test_shared_layer_is_replaced_everywhere() -> None:
    shared = nn.Linear(5, 5)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    zeromean.reparametrize(model, "nnn")
    assert isinstance(model["a"][0], NaturalLinear)
    assert model["a"][0] is model["b"][0]


def test_layer_under_two_names_stays_one_layer() -> None:
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    zeromean.reparametrize(model, "nnn")
    assert isinstance(model[2], NaturalLinear)
    assert model[0] is model[2]
    zeromean.fold(model)
    assert type(model[2]) is nn.Linear
    assert model[0] is model[2]


def test_input_of_another_width_raises() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn", every=1)
    model(inputs())
    for width in (1, 5):  # one feature would broadcast
        with pytest.raises(zeromean.ZeromeanError, match="6 features"):
            model(torch.randn(2, width, dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(inputs()).sum().backward()
        optimizer.step()
    assert model(torch.randn(6, dtype=torch.float64)).shape == (3,)
    assert (model[0].in_features, model[0].out_features) == (6, 5)


def test_fold_of_a_layer_with_hooks_raises() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn")
    handle = model[2].register_forward_hook(lambda *_: None)
    with pytest.raises(zeromean.ZeromeanError, match=r"2 has hooks.*Remove the hooks"):
        zeromean.fold(model)
    assert isinstance(model[0], NaturalLinear)
    handle.remove()
    assert type(zeromean.fold(model)[0]) is nn.Linear


def test_single_layer_folds_in_its_mode() -> None:
    assert not zeromean.fold(NaturalLinear(nn.Linear(4, 3)).eval()).training


@pytest.mark.parametrize("how", ["assign", "to_empty"])
def test_replaced_parameters_are_adopted(how: str) -> None:
    trained = network()
    zeromean.reparametrize(trained, "nnn", every=1)
    trained(inputs())
    with torch.device("meta" if how == "to_empty" else "cpu"):
        model = network()
    zeromean.reparametrize(model, "nnn", every=1)
    assert {t.device.type for t in model.state_dict().values()} == {
        "meta" if how == "to_empty" else "cpu"
    }
    if how == "to_empty":
        model.to_empty(device="cpu")
    model.load_state_dict(copy.deepcopy(trained.state_dict()), assign=how == "assign")
    x = inputs()
    torch.testing.assert_close(model(x), trained.eval()(x))


def test_second_call_is_left_alone() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn")
    for method in ("nnn", "cwn"):
        with pytest.warns(zeromean.ZeromeanWarning, match="Nothing"):
            report = zeromean.reparametrize(model, method)  # type: ignore[arg-type]
        assert "already" in report[0].row.reason


def test_layer_with_a_tied_bias_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].bias = model[0].bias
    report = zeromean.reparametrize(model, "nnn")
    assert [change.row.name for change in report.done] == ["2.weight"]
    assert "tied" in report[0].row.reason
    assert model[1].bias is model[0].bias


def test_layer_whose_bias_has_gradient_hooks_is_left_alone() -> None:
    model = network()
    model[0].bias.register_hook(lambda gradient: gradient)
    report = zeromean.reparametrize(model, "nnn")
    assert [change.row.name for change in report.done] == ["2.weight"]
    assert "its bias has gradient hooks" in report[0].row.reason


@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_whose_weights_are_read_by_others(batch_first: bool) -> None:
    """A transformer's fast path reads linear1.weight instead of calling the layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first).eval()
    x = torch.randn(3, 4, 8)
    with torch.no_grad():
        before = layer(x)
    report = zeromean.reparametrize(layer, "nnn")
    assert {change.row.name for change in report.done} == {"linear1.weight", "linear2.weight"}
    layer.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), before, rtol=1e-4, atol=1e-5)


def test_centralize_on_top() -> None:
    model = network()
    zeromean.reparametrize(model, "nnn")
    rows = {row.name: row for row in zeromean.explain(model)}
    assert rows["0.v"].centered
    assert rows["0.v"].axes == (1,)
    assert not rows["0.d"].centered


def test_replaced_v_raises() -> None:
    """fully_shard puts gathered copies in its place, where an estimate would be lost."""
    layer = NaturalLinear(nn.Linear(4, 3))
    layer = copy.deepcopy(layer)
    layer(torch.randn(2, 4))
    layer.v = nn.Parameter(torch.randn(3, 4))
    with pytest.raises(zeromean.ZeromeanError, match="fully_shard"):
        layer(torch.randn(2, 4))
    layer.eval()(torch.randn(2, 4))


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_model_can_move_between_estimates() -> None:
    model = network()
    assert model[0].weight.is_cuda
    zeromean.reparametrize(model, "nnn", every=1)
    assert all(buffer.is_cuda for buffer in model.buffers())
    x = torch.randn(8, 6, dtype=torch.float64)
    for device in ("cuda", "cpu"):
        model.to(device)
        with torch.no_grad():
            model[0].v.add_(1)
        assert model(x.to(device)).isfinite().all()

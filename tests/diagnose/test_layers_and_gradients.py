"""Weight means, gradient norms, pre-activations and the response to intensity."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import zeromean
from zeromean import ZeromeanError
from zeromean.diagnose import (
    fisher_condition,
    gradient_norms,
    intensity_response,
    preactivations,
    sharpness,
    weight_means,
)

Supports = Callable[[str, str, str, str], None]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 3, 6, 6), torch.arange(8) % 5) for _ in range(count)]


# --- Weight means ---------------------------------------------------------------------------------


def test_weight_means_use_each_layer_s_axes(supports: Supports) -> None:
    supports("Diagnostic", "weight_means", "-", "means taken by hand, grouped and transposed too")
    model = network()
    found = weight_means(model)
    assert found.layers == ("0.weight", "3.weight", "7.weight")
    transposed = model[3].weight.detach().view(2, 2, 3, 3, 3).mean((1, 3, 4)).flatten()
    assert found.means[1] == pytest.approx(transposed.numpy(), abs=1e-7)
    assert found.means[2] == pytest.approx(model[7].weight.detach().mean(1).numpy(), abs=1e-7)
    assert found.fan_in.tolist() == [27, 18, 24]
    assert [row[0] for row in found.table().rows] == [*found.layers]
    assert weight_means(model, layers="conv").layers == found.layers[:2]


def test_parametrized_weight_is_measured_as_used() -> None:
    model = nn.Linear(4, 3)
    parametrizations.spectral_norm(model)
    found = weight_means(model.eval())
    assert found.layers == ("weight",)
    assert found.means[0] == pytest.approx(model.weight.detach().mean(1).numpy(), abs=1e-7)


def test_independent_entries_are_at_chance_level() -> None:
    model = nn.Linear(400, 2000)
    nn.init.normal_(model.weight)
    share = float(weight_means(model).answer.partition(" times the value")[0].split()[-1])
    assert share == pytest.approx(0.67, abs=0.06)


# --- Gradient norms -------------------------------------------------------------------------------


def test_gradients_of_a_model_equal_backward(supports: Supports) -> None:
    supports("Diagnostic", "gradient_norms", "-", "gradients of backward, centered by hand")
    model, given_batches = network(), batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gradient_norms(model, given_batches)
    assert found.norm.shape == found.removed.shape == (3, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    x, y = given_batches[-1]
    F.cross_entropy(model(x), y).backward()
    for index, (parameter, axes, groups) in enumerate(
        ((model[0].weight, (1, 2, 3), 1), (model[3].weight, (0, 2, 3), 2), (model[7].weight, 1, 1))
    ):
        g = parameter.grad
        centered = zeromean.center(g, axes, groups)
        wanted = (g.norm(), centered.norm(), g.abs().max(), centered.abs().max())
        measured = (found.norm, found.projected_norm, found.largest, found.projected_largest)
        for values, value in zip(measured, wanted, strict=True):
            assert values[-1, index] == pytest.approx(float(value), rel=1e-4)


def test_frozen_and_unused_layers_are_nan_and_print_as_a_dash() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    model["frozen"] = nn.Linear(3, 3).requires_grad_(False)
    model.forward = lambda x: model["used"](model["frozen"](x))  # type: ignore[method-assign]
    found = gradient_norms(model, (torch.randn(4, 3), torch.zeros(4, dtype=torch.long)))
    assert np.isnan(found.norm[0]).tolist() == [False, True, True]
    assert "used.weight" in found.answer
    assert "nan" not in str(found)
    assert str(found).splitlines()[2].split() == ["unused.weight", "-", "-", "-", "-", "-"]
    found.plot()


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, count: int = 3) -> Iterator[float]:
    """Train, and yield the norm of the last layer's gradient before each step."""
    for x, y in batches(count):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        norm = float(model[7].weight.grad.norm())
        optimizer.step()
        yield norm


@pytest.mark.parametrize("centralized", [False, True])
def test_optimizer_is_measured_before_centering(centralized: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if centralized:
        zeromean.centralize(optimizer, model)
    with gradient_norms(optimizer, model=model) as norms:
        seen = list(steps(optimizer, model))
    for _ in steps(optimizer, model, 1):
        pass  # not followed any more
    assert norms.norm[:, 2] == pytest.approx(seen)
    assert norms.removed.min() > 1e-4  # measured before centering, whoever centers


def test_centralized_optimizer_brings_its_plan() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, layers="conv")
    norms = gradient_norms(optimizer)
    assert norms.layers == ("0.weight", "3.weight")
    assert str(norms).endswith("No step has been measured yet.")


def test_parameters_added_later_are_measured() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    optimizer.add_param_group({"params": [*model[1].parameters()]})
    assert gradient_norms(optimizer).layers == ("0.weight", "1.weight")


def test_centralized_optimizer_brings_its_model_for_a_selection() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    for layers in ("conv", lambda name, module: name in ("0", "3")):
        assert gradient_norms(optimizer, layers=layers).layers == ("0.weight", "3.weight")


def test_drop_in_brings_its_plan() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = zeromean.optim.SGD(model, lr=0.1)
    with gradient_norms(optimizer) as norms:
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    assert norms.layers == ("0.weight", "1.weight")
    assert norms.removed.min() > 0


def test_gradients_of_a_closure_are_measured() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with gradient_norms(optimizer, model=model) as norms:
        optimizer.step(closure)
    assert norms.norm[0, 0] == pytest.approx(float(model.weight.grad.norm()))


def test_optimizer_without_model_warns() -> None:
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes are known"):
        assert len(gradient_norms(optimizer).layers) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("optimizer", (torch.ones(2, 3), None)), {}, "batches has no effect with an optimizer"),
        (("optimizer",), {"loss": F.mse_loss}, "loss has no effect with an optimizer"),
        (("model",), {}, "batches are missing"),
        (
            ("model", (torch.ones(2, 3), None)),
            {"model": nn.Linear(3, 2)},
            "the model is given twice",
        ),
        (("model", torch.ones(2, 3)), {}, "batches is Tensor"),
        (("model", [torch.ones(2, 3)]), {}, "a batch is Tensor"),
        (("model", []), {}, "there is no batch"),
        (("model", (torch.ones(0, 3), None)), {}, "a batch is empty"),
        (("model", [(np.ones((2, 3)), None)]), {}, "the input of a batch is ndarray, not a tensor"),
        (("model", [({"input": torch.tensor(1.0)}, None)]), {}, "the input of a batch is dict"),
        (("optimizer",), {"embeddings": True}, "embeddings=True needs the model"),
        (("optimizer",), {"layers": lambda module: True}, "there is no model"),
        (("nothing",), {}, "str is not a torch.nn.Module"),
    ],
)
def test_invalid_arguments_raise(
    arguments: tuple[object, ...], options: dict[str, object], words: str
) -> None:
    model = nn.Linear(3, 2)
    named = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    subject, *rest = arguments
    with pytest.raises(ZeromeanError, match=words):
        gradient_norms(named.get(str(subject), subject), *rest, **options)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_vanishing_and_exploding_gradients_are_measured(factor: float) -> None:
    model, batch = nn.Linear(4, 3), (torch.randn(5, 4), None)
    usual = gradient_norms(model, batch, loss=lambda z, _: z.mean())
    found = gradient_norms(model, batch, loss=lambda z, _: z.mean() * factor)
    assert found.norm == pytest.approx(factor * usual.norm, rel=1e-4, abs=0)
    assert found.removed == pytest.approx(usual.removed, rel=1e-4)


def test_keyword_inputs_may_be_numbers() -> None:
    class Scaled(nn.Linear):
        def forward(self, scale: Tensor, input: Tensor) -> Tensor:
            return super().forward(input * scale)

    model = Scaled(4, 3)
    batch = {"scale": torch.tensor(2.0), "input": torch.randn(5, 4)}, torch.arange(5) % 3
    assert gradient_norms(model, batch).norm[0, 0] > 0


# --- Pre-activations ------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    mu=st.floats(-5, 5), sigma=st.floats(0.1, 4), m=st.integers(2, 40), seed=st.integers(0, 10**6)
)
def test_unit_norm_zero_mean_weights_keep_variance(
    mu: float, sigma: float, m: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    v = zeromean.center(torch.randn(6, m, generator=generator, dtype=torch.float64), axes=1)
    model = nn.Linear(m, 6, bias=False, dtype=torch.float64)
    model.weight.data.copy_(v / v.norm(dim=1, keepdim=True))
    count = 4000
    h = mu + sigma * torch.randn(count, m, generator=generator, dtype=torch.float64)
    found = preactivations(model, [(h[:1000], None), (h[1000:], None)])
    # 6 deviations of the estimates' own distributions
    assert np.abs(found.unit_means[0]).max() < 6 * sigma / count**0.5
    assert found.unit_variances[0] == pytest.approx(sigma**2, rel=6 * (2 / count) ** 0.5)
    assert found.mean[0] == pytest.approx(found.unit_means[0].mean())
    assert found.variance[0] == pytest.approx(found.unit_variances[0].mean())


def test_moments_go_over_samples_and_pixels_batch_by_batch(supports: Supports) -> None:
    supports("Diagnostic", "preactivations", "-", "Proposition 1; moments of all batches at once")
    model = network().eval()
    given_batches = [*batches(2), (torch.randn(3, 3, 6, 6), None)]
    found = preactivations(model, given_batches)
    whole = torch.cat([x for x, _ in given_batches])
    outputs = {"0.weight": model[:1](whole), "3.weight": model[:4](whole)}
    for index, name in enumerate(found.layers[:2]):
        units = outputs[name].detach().transpose(0, 1).flatten(1).double()
        assert found.unit_means[index] == pytest.approx(units.mean(1).numpy(), abs=1e-6)
        assert found.unit_variances[index] == pytest.approx(
            units.var(1, correction=0).numpy(), rel=1e-5
        )
    assert found.layers[2] == "7.weight"


def test_batch_without_an_input_for_a_layer_is_left_out() -> None:
    class Expert(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[x[:, 0] > 0])

    model, x = Expert(4, 3), torch.randn(6, 4).abs()
    found = preactivations(model, [(x, None), (-x, None)])
    assert found.unit_means[0].tolist() == preactivations(model, (x, None)).unit_means[0].tolist()


def test_running_statistics_stay_unchanged() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    preactivations(model, batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())


def test_spectral_normalization_stays_unchanged() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = weight_means(model), weight_means(model)
    assert first.means[0].tolist() == second.means[0].tolist()
    preactivations(model, [(torch.randn(4, 6), None)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_recurrent_layers_are_left_out() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    batch = torch.randn(2, 5, 3), None
    assert preactivations(Tagger(), batch).layers == ("head.weight",)
    assert set(intensity_response(Tagger(), batch).left_out) == {
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    }
    with pytest.raises(ZeromeanError, match="no linear or convolutional layer of the model ran"):
        preactivations(nn.Sequential(nn.LSTM(3, 4)), batch)


@pytest.mark.parametrize(
    "measure",
    [gradient_norms, preactivations, intensity_response, fisher_condition, sharpness],
)
def test_shuffled_batches_leave_random_numbers_alone(measure: Callable[..., object]) -> None:
    class Augmented(torch.utils.data.TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            x, target = super().__getitem__(index)
            return x + float(np.random.rand() + random.random()), target

    data = Augmented(torch.randn(6, 4), torch.arange(6) % 3)
    model = nn.Linear(4, 3)

    def state() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[2], random.getstate()

    before = state()
    measure(model, torch.utils.data.DataLoader(data, batch_size=2, shuffle=True))
    assert state() == before


# --- Intensity response ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, padding=1, groups=2),
        nn.Conv1d(4, 6, 3, stride=2, padding=2),
        nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv3d(4, 2, 2),
        nn.ConvTranspose1d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3, padding=1, bias=False),
    ],
    ids=lambda layer: f"{type(layer).__name__} {layer.extra_repr()}",
)
def test_shift_response_is_the_weights_sum(layer: nn.Module) -> None:
    dimensions = layer.weight.ndim - 2
    x = torch.randn(2, 4, *[7] * dimensions)
    found = intensity_response(layer, (x, None), shift=0.25)
    weight = layer.weight.detach().double()
    if layer.transposed:
        weight = weight.view(layer.groups, 4 // layer.groups, *weight.shape[1:]).transpose(1, 2)
        weight = weight.flatten(0, 1)
    sums = weight.flatten(1).sum(1)
    assert found.response[0] == pytest.approx(0.25 * sums.numpy(), abs=1e-12)
    assert found.deviation[0] < 1e-12
    m = weight[0].numel()
    wanted = sums.abs() / (m**0.5 * weight.flatten(1).norm(dim=1))
    assert found.sensitivity[0] == pytest.approx(wanted.numpy(), abs=1e-12)


def test_strided_transposed_convolution_is_left_out() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.ConvTranspose1d(2, 3, 3, stride=2))
    found = intensity_response(model, (torch.randn(1, 2, 5), None))
    assert found.layers == ("0.weight",)
    assert "uses all its weights" in str(found.left_out)
    assert "1.weight: left out" in str(found)
    with pytest.raises(ZeromeanError, match="applies to no layer"):
        intensity_response(model[1], (torch.randn(1, 2, 5), None))
    with pytest.raises(ZeromeanError, match="applies to no layer"):  # all border
        intensity_response(nn.Conv2d(1, 1, 3, padding=1), (torch.randn(1, 1, 2, 2), None))


@pytest.mark.parametrize(
    "wrap", [nn.utils.spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)]
)
def test_weight_that_a_hook_computes_is_left_out(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 3)), nn.Linear(3, 2))
    found = intensity_response(model, (torch.randn(5, 4), None))
    assert found.layers == ("1.weight",)
    assert "a hook computes" in found.left_out["0.weight_orig"]


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_corollary_4_1_after_training(at: str, supports: Supports) -> None:
    supports("Diagnostic", "intensity_response", at, "c 1^T w0 after training, in every layer")
    model = network()
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-2)
    zeromean.centralize(optimizer, model, at=at)
    for _ in steps(optimizer, model, 10):
        pass
    found = intensity_response(model, batches(1)[0], shift=3.0, start=start)
    assert found.layers == ("0.weight", "3.weight", "7.weight")
    assert found.deviation.max() < 1e-4  # float32 training
    for index in (0, 3, 7):
        moved = (model[index].weight - start[index].weight).detach().abs().max()
        assert float(moved) > 1e-2


def test_without_gc_training_changes_the_response() -> None:
    model = network()
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in steps(optimizer, model, 10):
        pass
    assert intensity_response(model, batches(1)[0], start=start).deviation.max() > 1e-2


def test_other_start_or_zero_shift_raises() -> None:
    batch = torch.randn(2, 3), None
    with pytest.raises(ZeromeanError, match=r"start has no weight of shape \(2, 3\)"):
        intensity_response(nn.Linear(3, 2), batch, start=nn.Linear(3, 4))
    with pytest.raises(ZeromeanError, match=r"shift=0\.0"):
        intensity_response(nn.Linear(3, 2), batch, shift=0.0)


def test_modules_with_several_weights_or_inputs_are_left_out() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = nn.Bilinear(3, 3, 3)
            self.cell = nn.RNNCell(3, 3)
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
            self.head, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.cell(self.pair(x, x))[:, None]
            return self.head(self.attention(x, x, x)[0])

    batch = torch.randn(2, 3), None
    found = intensity_response(Mixed(), batch)
    assert found.layers == ("head.weight",)
    no_product = "its output is not the product of its weights with one input"
    assert found.left_out == {
        "pair.weight": no_product,
        "cell.weight_ih": no_product,
        "cell.weight_hh": no_product,
        "attention.in_proj_weight": no_product,
        "attention.out_proj.weight": "it did not run",  # attention uses its weight itself
        "idle.weight": "it did not run",
    }
    assert preactivations(Mixed(), batch).layers == ("pair.weight", "head.weight")


# --- All ------------------------------------------------------------------------------------------


def test_every_result_has_a_table_and_a_picture(tmp_path: object) -> None:
    model, one = network(), batches(1)[0]
    results = [
        weight_means(model),
        gradient_norms(model, [one, one]),
        preactivations(model, one),
        intensity_response(model, one),
        zeromean.diagnose.fisher_condition(model, one),
        zeromean.diagnose.sharpness(model, one),
    ]
    for result in results:
        table = result.table()
        assert all(len(row) == len(table.header) for row in table.rows)
        assert "nan" not in str(result)
        assert repr(result) == f"{type(result).__name__}({result.answer})"
        assert result.answer.split()[0] in result._repr_html_()
        assert str(result).splitlines()[-1] == result.answer
        figure = result.plot()
        assert len(figure.axes) == result.panels
        assert result.plot(figure.axes, label="again", color="black") is figure
        figure.canvas.draw()


# --- What is no number ----------------------------------------------------------------------------


def test_nonfinite_gradients_are_reported() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    good, bad = torch.randn(5, 4), torch.full((5, 4), torch.nan)
    found = gradient_norms(model, [(good, torch.arange(5) % 2), (bad, torch.arange(5) % 2)])
    assert np.isfinite(found.norm[0]).all()
    assert np.isinf(found.norm[1]).all()
    assert np.isnan(found.removed[1]).all()
    assert found.answer.startswith("The gradients of 2 of 2 layers (0.weight first) are not finite")
    assert found.answer.endswith("in 1 of 2 batches.")
    found.plot()


@pytest.mark.parametrize(
    ("frozen", "loss", "words"),
    [
        (True, None, "no weight that can be centered requires a gradient"),
        (False, lambda output, _: output, "the loss has shape"),
        (False, lambda output, _: output.sum().item(), "the loss is a float"),
    ],
)
def test_model_without_gradient_raises(
    frozen: bool, loss: Callable[..., Tensor] | None, words: str
) -> None:
    model = nn.Linear(4, 3)
    model.weight.requires_grad_(not frozen)
    with pytest.raises(ZeromeanError, match=words):
        gradient_norms(model, (torch.randn(5, 4), torch.arange(5) % 3), loss=loss)


def test_single_sample_has_zero_deviation() -> None:
    found = preactivations(nn.Linear(4, 3), (torch.randn(1, 4), None))
    assert "at most inf of its deviation" in found.answer


def test_complex_weights_raise_or_are_measured_whole() -> None:
    model = nn.Linear(4, 3, dtype=torch.complex64)
    batch = torch.randn(5, 4, dtype=torch.complex64), None
    for measure in (
        lambda: weight_means(model),
        lambda: preactivations(model, batch),
        lambda: intensity_response(model, batch),
        lambda: sharpness(model, batch, loss=lambda z, _: z.abs().square().mean()),
    ):
        with pytest.raises(ZeromeanError, match="weight is complex64"):
            measure()
    found = gradient_norms(model, batch, loss=lambda z, _: z.abs().square().mean())
    model(batch[0]).abs().square().mean().backward()
    gradient = model.weight.grad
    assert gradient is not None
    centered = gradient - gradient.mean(1, keepdim=True)
    assert found.projected_norm[0, 0] == pytest.approx(float(centered.norm()), rel=1e-5)


def test_nested_step_counts_once() -> None:
    class Outer(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            super().step(closure)

    model = nn.Linear(4, 3)
    torch.optim.SGD(model.parameters())  # gives the inner step its hooks, whoever calls it
    optimizer = Outer(model.parameters(), lr=0.1)
    with gradient_norms(optimizer, model=model) as found:
        for _ in range(3):
            model(torch.randn(5, 4)).sum().backward()
            optimizer.step()
    assert found.norm.shape == (3, 1)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


# --- the default loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [gradient_norms, sharpness, fisher_condition])
@pytest.mark.parametrize(
    ("outputs", "target"),
    [
        (1, torch.randn(16, 1)),
        (1, torch.zeros(16, dtype=torch.long)),
        (3, torch.randn(16, 3)),
        (3, torch.ones(16, 3)),
        (3, torch.ones(16)),
        (3, torch.zeros(16, 1, dtype=torch.long)),
        (3, torch.zeros(16, dtype=torch.bool)),
        (3, torch.zeros(16, dtype=torch.complex64)),
        (3, [0] * 16),
    ],
    ids=["one column", "one class", "regression", "no probabilities", "floats", "shape", "bool",
         "complex", "list"],
)  # fmt: skip
def test_default_loss_of_other_targets_raises(
    measure: Callable[..., object], outputs: int, target: object
) -> None:
    with pytest.raises(ZeromeanError, match=r"the default (loss|likelihood).*Pass (loss|likeli)"):
        measure(nn.Linear(4, outputs), (torch.randn(16, 4), target))


@pytest.mark.parametrize("measure", [gradient_norms, sharpness, fisher_condition])
@pytest.mark.parametrize(
    "target",
    [
        torch.arange(16) % 3,
        (torch.arange(16) % 3).int(),
        torch.softmax(torch.randn(16, 3), 1),
    ],
    ids=["indices", "short indices", "probabilities"],
)
def test_default_loss_of_classes_is_cross_entropy(
    measure: Callable[..., object], target: Tensor
) -> None:
    model, x = nn.Linear(4, 3), torch.randn(16, 4)
    found = measure(model, (x, target))
    wanted = target if target.is_floating_point() else target.long()
    option = (
        {"likelihood": "categorical"} if measure is fisher_condition else {"loss": F.cross_entropy}
    )
    assert str(found) == str(measure(model, (x, wanted), **option))


def test_regression_with_its_loss_is_measured() -> None:
    model, batch = nn.Linear(4, 1), (torch.randn(16, 4), torch.randn(16, 1))
    assert gradient_norms(model, batch, loss=F.mse_loss).norm[0, 0] > 0
    assert sharpness(model, batch, loss=F.mse_loss).hessian_norm > 0
    assert fisher_condition(model, batch, likelihood="gaussian").condition[0] >= 1


def test_zero_gradients_are_reported_without_nan() -> None:
    model = nn.Linear(4, 3)
    found = gradient_norms(model, (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)))
    assert found.answer == "All gradients are zero or missing over 1 batch."
    assert "nan" not in str(found)


@pytest.mark.parametrize("measure", [weight_means, preactivations, intensity_response])
def test_nonfinite_weights_raise(measure: Callable[..., object]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[1].weight.data[0, 0] = torch.nan
    batch = () if measure is weight_means else ((torch.randn(2, 4), None),)
    with pytest.raises(ZeromeanError, match=r"1\.weight has entries that are not finite"):
        measure(model, *batch)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("measure", [preactivations, intensity_response])
def test_nonfinite_inputs_raise(measure: Callable[..., object], value: float) -> None:
    with pytest.raises(ZeromeanError, match="of weight is not finite on these batches"):
        measure(nn.Linear(4, 3), [(torch.ones(2, 4), None), (torch.full((2, 4), value), None)])


@pytest.mark.parametrize("measure", [weight_means, gradient_norms, preactivations, sharpness])
def test_meta_device_raises(measure: Callable[..., object]) -> None:
    batch = () if measure is weight_means else ((torch.zeros(2, 4), torch.zeros(2)),)
    with pytest.raises(ZeromeanError, match="weight is on the meta device and has no values"):
        measure(nn.Linear(4, 3, device="meta"), *batch)

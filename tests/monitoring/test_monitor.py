"""The monitor's numbers against the formulas, at every place of centering."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeromean
from zeromean import monitoring, optim
from zeromean.centralization.centralize import handle_of
from zeromean.measurement.observer import StepObserver
from zeromean.measurement.sample import QUANTITIES, warn_of_vanished
from zeromean.monitoring import LayerStatistics, Sample

PLACES = ["plain", "gradient", "update", "backward", "drop-in gradient", "drop-in update"]


class Network(nn.Module):
    """A network with fan-in axes of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=2)
        self.up = nn.ConvTranspose1d(6, 4, 3, groups=2)
        self.conv = nn.Conv1d(4, 5, 3)
        self.linear = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.conv(self.up(self.embed(tokens).mT).tanh()).tanh().mean(-1))


def batch(step: int) -> Tensor:
    return torch.randint(7, (12, 5), generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    target = tokens.to(next(model.parameters()).dtype).std(1, keepdim=True)
    return (model(tokens) - target).square().mean()


def optimizer_of(place: str, model: nn.Module, embeddings: bool = False) -> torch.optim.Optimizer:
    if place.startswith("drop-in"):
        at: Any = place.split()[1]
        return optim.AdamW(model, lr=0.01, at=at, embeddings=embeddings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if place != "plain":
        zeromean.centralize(optimizer, model, at=place, embeddings=embeddings)  # type: ignore
    return optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    loss_of(model, batch(step)).backward()
    optimizer.step()


def raw_gradients(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Compute the gradients on a copy without hooks."""
    other = Network().to(next(model.parameters()).dtype)
    other.load_state_dict(model.state_dict())
    loss_of(other, tokens).backward()
    return {name: p.grad.double() for name, p in other.named_parameters() if p.grad is not None}


def projected(x: Tensor, row: Any) -> Tensor:
    padding = row.fan_in.padding_idx
    if padding is None:
        return zeromean.center(x, row.axes, row.groups)
    kept = [n for n in range(len(x)) if n != padding]
    rest = x.clone()
    rest[kept] = zeromean.center(x[kept], row.axes)
    return rest


def by_hand(row: Any, g: Tensor, old: Tensor, new: Tensor, start: Tensor) -> dict[str, float]:
    """Compute every quantity from whole float64 tensors."""
    rest = projected(g, row)
    mean, moved = new - projected(new, row), (new - start) - projected(new - start, row)
    entries = mean.numel() * (1 - (row.fan_in.padding_idx is not None) / len(mean))
    numbers = {
        "gradient_norm": g.norm(),
        "gradient_norm_centered": rest.norm(),
        "gradient_max": g.abs().max(),
        "gradient_max_centered": rest.abs().max(),
        "gradient_mean": g.mean(),
        "gradient_mean_centered": rest.mean(),
        "removed": 1 - rest.square().sum() / g.square().sum(),
        "vanished": ((g != 0) & (rest == 0)).sum() / (g != 0).sum(),
        "weight_mean": (mean.square().sum() / entries).sqrt(),
        "weight_mean_drift": (moved.square().sum() / entries).sqrt(),
        "update_ratio": (new - old).norm() / old.norm(),
    }
    return {name: float(value) for name, value in numbers.items()}


def numbers(layer: LayerStatistics) -> dict[str, float]:
    found = asdict(layer)
    del found["name"]
    return found


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("place", "embeddings"),
    # Without centering the monitor uses the defaults.
    [
        (place, embeddings)
        for place in PLACES
        for embeddings in (False, True)
        if (place, embeddings) != ("plain", True)
    ],
)
def test_numbers_equal_the_formulas(
    place: str, embeddings: bool, supports: Callable[..., None]
) -> None:
    model = Network().double()
    optimizer = optimizer_of(place, model, embeddings)
    samples: list[Sample] = []
    monitor = zeromean.monitor(optimizer, model, every=2, to=samples.append)
    rows = {row.name: row for row in zeromean.explain(model, embeddings=embeddings).centered}
    start, expected = weights(model), {}
    for step in range(5):
        gradients, old = raw_gradients(model, batch(step)), weights(model)
        train(model, optimizer, step)
        new = weights(model)
        expected[step] = {
            name: by_hand(row, gradients[name], old[name], new[name], start[name])
            for name, row in rows.items()
        }
    assert [sample.step for sample in samples] == [0, 2, 4]
    assert monitor.last is samples[-1]
    for sample in samples:
        assert sample.at == (None if place == "plain" else place.rsplit(maxsplit=1)[-1])
        assert {layer.name for layer in sample.layers} == set(rows)
        for layer in sample.layers:
            found = asdict(layer)
            for quantity, value in expected[sample.step][layer.name].items():
                assert found[quantity] == pytest.approx(value, rel=1e-9, abs=1e-15), quantity
    at = place.rsplit(maxsplit=1)[-1]
    supports(
        "Monitor",
        {"plain": "an optimizer that is not centralized"}.get(
            place, "zeromean.optim" if "drop-in" in place else "zeromean.centralize"
        ),
        at if at != "plain" else "-",
        "every number equal to its formula in float64",
    )


@pytest.mark.parametrize("place", PLACES)
def test_monitor_does_not_change_training(place: str) -> None:
    model = Network()
    other = copy.deepcopy(model)
    optimizer, alone = optimizer_of(place, model), optimizer_of(place, other)
    zeromean.monitor(optimizer, model, every=2, to=lambda sample: None)
    for step in range(5):
        for one, its in ((model, optimizer), (other, alone)):
            train(one, its, step)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("place", ["plain", "gradient", "backward"])
def test_between_samples_nothing_is_measured(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Network()
    optimizer = optimizer_of(place, model)
    zeromean.monitor(optimizer, model, every=3, to=lambda sample: None)
    begun: list[int] = []
    measurement = monitoring.StepMeasurement
    watched: list[int] = []
    monkeypatch.setattr(
        monitoring, "StepMeasurement", lambda targets: begun.append(step) or measurement(targets)
    )
    handle = handle_of(optimizer)
    for step in range(8):
        if place == "backward" and handle._place._watchers:
            watched.append(step)
        train(model, optimizer, step)
    assert begun == [0, 3, 6]
    assert watched == ([0, 3, 6] if place == "backward" else [])


@pytest.mark.parametrize("place", ["gradient", "update", "backward"])
def test_order_of_monitor_and_centralize_does_not_matter(place: Any) -> None:
    found = []
    for monitor_first in (True, False):
        torch.manual_seed(1)
        model = Network().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if not monitor_first:
            zeromean.centralize(optimizer, model, at=place)
        monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
        if monitor_first:
            zeromean.centralize(optimizer, model, at=place)
        loss_of(model, batch(0)).backward()
        optimizer.step()
        found.append(monitor.last)
    assert found[0] == found[1]
    assert found[0].layers[0].removed > 0.01
    assert all(layer.weight_mean_drift < 1e-12 for layer in found[0].layers)


def test_two_monitors_sample_the_same_step() -> None:
    model = Network().double()
    optimizer = optimizer_of("backward", model)
    first, second = (
        zeromean.monitor(optimizer, model, every=every, to=lambda sample: None) for every in (1, 2)
    )
    for step in range(4):
        train(model, optimizer, step)
        if step % 2 == 0:
            assert first.last == second.last
        assert first.last.layers[0].removed > 0
    second.remove()
    train(model, optimizer, 4)
    assert first.last.layers[0].removed > 0


@pytest.mark.parametrize("keyword", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_gradients_of_a_closure_are_measured(place: str, keyword: bool) -> None:
    model, optimizers = Network().double(), []
    found = []
    for with_closure in (True, False):
        one = copy.deepcopy(model)
        optimizer = optimizer_of(place, one)
        optimizers.append(optimizer)
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)

        def closure(one: nn.Module = one, its: torch.optim.Optimizer = optimizer) -> Tensor:
            its.zero_grad()
            loss = loss_of(one, batch(0))
            loss.backward()
            return loss

        for p in one.parameters():
            p.grad = torch.full_like(p, 7.0)  # stale
        if with_closure:
            optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        found.append(monitor.last)
    assert found[0] == found[1]


def test_failing_closure_keeps_the_monitor_working() -> None:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples: list[Sample] = []
    zeromean.monitor(optimizer, model, every=1, to=samples.append)

    def closure() -> Tensor:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        optimizer.step(closure)
    loss_of(model, batch(0)).backward()
    optimizer.step()
    assert [sample.step for sample in samples] == [0]


class Failing(torch.optim.SGD):
    """An optimizer whose first step raises."""

    failed = False

    def step(self, closure: Any = None) -> Any:
        if not self.failed:
            self.failed = True
            raise RuntimeError("out of memory")
        return super().step(closure)


def test_step_that_raised_is_not_measured() -> None:
    model = nn.Linear(3, 2, bias=False)
    torch.optim.SGD(model.parameters())  # gives the inner step its hooks, whoever calls it
    optimizer = Failing(model.parameters(), lr=0.1)
    samples: list[Sample] = []
    zeromean.monitor(optimizer, model, every=1, to=samples.append)
    for size in (1.0, 100.0, 10.0):
        model.weight.grad = torch.full((2, 3), size)
        with contextlib.suppress(RuntimeError):
            optimizer.step()
    assert [sample.step for sample in samples] == [0, 1]
    assert [sample.layers[0].gradient_mean for sample in samples] == [100.0, 10.0]


@pytest.mark.parametrize("closure", [None, lambda: 0.0])
@pytest.mark.parametrize("failing", ["begin", "see gradients"])
def test_next_step_is_observed_after_a_failing_function(failing: str, closure: Any) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    calls: list[str] = []

    def call(name: str) -> bool:
        calls.append(name)
        if name == failing and calls.count(name) == 1:
            raise OSError("no room")
        return True

    def see_gradients(optimizer: torch.optim.Optimizer) -> None:
        call("see gradients")

    def end(optimizer: torch.optim.Optimizer, observed: bool) -> None:
        call(f"end {observed}")

    StepObserver(optimizer, lambda optimizer: call("begin"), see_gradients, end)
    with pytest.raises(OSError, match="no room"):
        optimizer.step(closure)
    failed = len(calls)
    optimizer.step(closure)
    assert calls[failed:] == ["begin", "see gradients", "end True"]


class Twice(torch.optim.SGD):
    """An optimizer whose step runs the hooks twice."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_nested_step_counts_once() -> None:
    model = Network()
    optimizer = Twice(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    samples: list[Sample] = []
    zeromean.monitor(optimizer, model, every=2, to=samples.append)
    for step in range(4):
        train(model, optimizer, step)
    assert [sample.step for sample in samples] == [0, 2]
    assert max(layer.removed for layer in samples[1].layers) > 0.01


@pytest.mark.parametrize("place", ["plain", "gradient", "update", "backward"])
def test_accumulated_gradients_are_measured_as_one(
    place: str, supports: Callable[..., None]
) -> None:
    model = Network().double()
    whole = copy.deepcopy(model)
    found = []
    for one, parts in ((model, 3), (whole, 1)):
        optimizer = optimizer_of(place, one)
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)
        for part in batch(0).chunk(parts):
            (loss_of(one, part) / parts).backward()
        optimizer.step()
        found.append(monitor.last)
    for layer, other in zip(found[0].layers, found[1].layers, strict=True):
        assert numbers(layer) == pytest.approx(numbers(other), rel=1e-9, abs=1e-12)
    supports(
        "Monitor", "accumulation", place if place != "plain" else "-", "equal to the whole batch"
    )


def test_complex_gradients_at_backward() -> None:
    model = nn.Linear(4, 2, dtype=torch.complex64)
    found = []
    for place in ("gradient", "backward"):
        one = copy.deepcopy(model)
        optimizer = optimizer_of(place, one)
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)
        one(torch.ones(1, 4) + 1j * torch.arange(4)).abs().sum().backward()
        optimizer.step()
        found.append(numbers(monitor.last.layers[0]))
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-6)


def test_complex_numbers_are_measured_by_their_magnitude() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=torch.complex64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    model.weight.grad = torch.randn(2, 3, dtype=torch.complex64)
    optimizer.step()
    (layer,) = monitor.last.layers
    weight, g = model.weight.detach(), model.weight.grad
    assert layer.gradient_norm == pytest.approx(float(g.norm()))
    assert layer.gradient_max == pytest.approx(float(g.abs().max()))
    assert layer.gradient_max_centered == pytest.approx(
        float(zeromean.center(g, 1).abs().max()), rel=1e-5
    )
    assert layer.gradient_mean == pytest.approx(float(torch.view_as_real(g).mean()), rel=1e-5)
    mean = weight.mean(1).abs().square().mean().sqrt()
    assert layer.weight_mean == pytest.approx(float(mean), rel=1e-5)


def test_discarded_backward_pass_is_not_measured() -> None:
    model = Network().double()
    found = []
    for discard in (True, False):
        one = copy.deepcopy(model)
        optimizer = optimizer_of("backward", one)
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)
        if discard:
            (loss_of(one, batch(1)) * float("inf")).backward()
            optimizer.zero_grad()
        loss_of(one, batch(0)).backward()
        optimizer.step()
        found.append(monitor.last)
    assert found[0] == found[1]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("place", ["plain", "gradient", "update", "backward"])
def test_loss_scale_is_divided_out(place: str, fused: bool, supports: Callable[..., None]) -> None:
    model = Network()
    found = []
    for scaled in (True, False):
        one = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.01, fused=fused)
        if place != "plain":
            zeromean.centralize(optimizer, one, at=place)  # type: ignore[arg-type]
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, enabled=scaled)
        scaler.scale(loss_of(one, batch(0))).backward()
        scaler.step(optimizer)
        found.append(monitor.last)
    for layer, other in zip(found[0].layers, found[1].layers, strict=True):
        assert numbers(layer) == pytest.approx(numbers(other), rel=1e-4, abs=1e-7)
    supports(
        "Monitor",
        f"torch.amp.GradScaler{', fused' if fused else ''}",
        place if place != "plain" else "-",
        "equal to a run without a scale",
    )


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_of_tiny_and_huge_gradients(size: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    model.weight.grad = torch.tensor([[3 * size, -1 * size]])
    optimizer.step()
    layer = monitor.last.layers[0]
    assert layer.gradient_norm == pytest.approx(10**0.5 * size)
    assert layer.removed == pytest.approx(0.2)


def test_scaled_half_precision_gradients_do_not_underflow() -> None:
    model = nn.Linear(2, 1, bias=False).half()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(torch.ones(()))
    model.weight.grad = torch.tensor([[3e-3, 1e-3]]).half()
    scaler.step(optimizer)
    layer = monitor.last.layers[0]
    assert layer.gradient_max == pytest.approx(3e-3 / 2**16, rel=1e-3)
    assert layer.removed == pytest.approx(0.8, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_step_is_not_sampled(fused: bool) -> None:
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    samples: list[Sample] = []
    zeromean.monitor(optimizer, model, every=3, to=samples.append)
    scaler = torch.amp.GradScaler("cpu")
    for step in range(5):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch(step))).backward()
        if step == 0:
            model.linear.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    # A fused step is begun, and counts; any other is not even called.
    assert [sample.step for sample in samples] == ([1, 4] if fused else [0, 3])
    assert all(layer.gradient_norm < 1e3 for layer in samples[0].layers)


def test_gradients_are_measured_after_clipping() -> None:
    for place in ("plain", "gradient", "backward"):
        model = Network().double()
        optimizer = optimizer_of(place, model)
        monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
        loss_of(model, batch(0)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        expected = {name: p.grad.norm() for name, p in model.named_parameters()}
        optimizer.step()
        for layer in monitor.last.layers:
            norm = "gradient_norm_centered" if place == "backward" else "gradient_norm"
            assert getattr(layer, norm) == pytest.approx(float(expected[layer.name]))
            ratio = layer.gradient_norm_centered / layer.gradient_norm
            assert ratio**2 == pytest.approx(1 - layer.removed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_gradients_do_not_overflow(dtype: torch.dtype) -> None:
    model = nn.Linear(300, 200, bias=False).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    model.weight.grad = torch.full_like(model.weight, 300.0)
    optimizer.step()
    (layer,) = monitor.last.layers
    assert layer.gradient_norm == pytest.approx(300 * (300 * 200) ** 0.5, rel=1e-2)
    assert layer.removed == pytest.approx(1)
    assert layer.gradient_norm_centered == 0


def test_layers_without_gradient_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    model[1].weight.grad = torch.zeros(2, 2)
    optimizer.step()
    (layer,) = monitor.last.layers
    assert (layer.name, layer.removed, layer.update_ratio) == ("1.weight", 0, 0)


def test_added_parameter_drifts_from_its_own_start() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    monitor = zeromean.monitor(optimizer, model, every=1, to=lambda sample: None)
    with torch.no_grad():
        model[1].weight += 5
    optimizer.add_param_group({"params": model[1].parameters()})
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert [layer.name for layer in monitor.last.layers] == ["0.weight", "1.weight"]
    assert monitor.last.layers[1].weight_mean_drift < 1


def test_parameters_of_another_model_are_measured() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes are known"):
        zeromean.centralize(optimizer)
    with pytest.warns(zeromean.ZeromeanWarning, match="do not belong to the model"):
        monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    inputs = torch.tensor([1.0, 2.0, 4.0])
    (model(inputs) + other(inputs)).sum().backward()
    optimizer.step()
    assert [layer.name for layer in monitor.last.layers] == ["weight", "group 0, parameter 2"]


def test_remove_removes_all_hooks() -> None:
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters())
    handle = zeromean.centralize(optimizer, model, at="backward")
    with zeromean.monitor(optimizer, model, to=lambda sample: None) as monitor:
        assert handle._place._watchers
    monitor.remove()
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert not handle._place._watchers
    copied = copy.deepcopy(optimizer)
    assert not copied._optimizer_step_pre_hooks


def test_monitor_holds_no_reference_to_the_optimizer() -> None:
    model = Network()
    monitor = zeromean.monitor(torch.optim.SGD(model.parameters()), model, to=lambda sample: None)
    gc.collect()
    assert monitor._optimizer() is None
    monitor.remove()


def test_first_step_of_a_resumed_run() -> None:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples: list[Sample] = []
    zeromean.monitor(optimizer, model, every=2, to=samples.append, first_step=40)
    for step in range(3):
        train(model, optimizer, step)
    assert [sample.step for sample in samples] == [40, 42]


def test_sample_table_and_scalars() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    lines = str(monitor.last).splitlines()
    assert lines[0] == "step 0, SGD, not centralized: what centering would do"
    assert lines[1].split("  ")[0] == "layer"
    assert [line.split()[0] for line in lines[2:]] == ["0.weight", "1.weight"]
    assert lines[2].split()[7].endswith("%")
    scalars = monitor.last.scalars()
    assert len(scalars) == 2 * len(QUANTITIES)
    assert scalars["zeromean/removed/1.weight"] == monitor.last.layers[1].removed
    zeromean.centralize(optimizer, model)
    optimizer.step()
    assert monitor.last.step == 0  # the next is number 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "every=0 is not a whole number of at least 1"),
        ({"every": 2.5}, "every=2.5"),
        ({"first_step": -1}, "first_step=-1 is not a whole number of at least 0"),
        ({"to": None}, "to=None is neither a function of a sample nor a path"),
        ({"to": []}, "to=[] holds no destination"),
        ({"to": 3}, "to=3"),
        ({"to": "numbers.txt"}, "does not end in .csv or .jsonl"),
        ({"to": "nowhere/at/all.csv"}, "cannot be written"),
        ({"model": None}, "the model is missing"),
        ({"optimizer": 3}, "the optimizer is of type int, not"),
        ({"model": nn.Linear(2, 2)}, "share no parameter"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], words: str) -> None:
    model = Network()
    options: dict[str, Any] = {
        "optimizer": torch.optim.SGD(model.parameters()),
        "model": model,
        "to": print,
    } | arguments
    with pytest.raises(zeromean.ZeromeanError) as caught:
        zeromean.monitor(**options)
    assert words in str(caught.value)


def test_model_without_centered_layers_warns() -> None:
    model = nn.LayerNorm(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(zeromean.ZeromeanWarning, match="samples hold no layer"):
        zeromean.monitor(optimizer, model, to=print)


def test_failing_destination_keeps_the_monitor_counting() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps: list[int] = []

    def write(sample: Sample) -> None:
        steps.append(sample.step)
        if sample.step == 0:
            raise OSError("no room")

    zeromean.monitor(optimizer, model, every=2, to=write)
    for step in range(3):
        model(torch.ones(1, 3)).sum().backward()
        if step == 0:
            with pytest.raises(OSError, match="no room"):
                optimizer.step()
        else:
            optimizer.step()
    assert steps == [0, 2]


# --- vanished gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", ["gradient", "backward"])
def test_vanished_gradient_entries_warn_once(place: Any, dtype: torch.dtype) -> None:
    model = nn.Linear(64, 4, bias=False).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    zeromean.centralize(optimizer, model, at=place)
    monitor = zeromean.monitor(optimizer, model, every=1, to=lambda sample: None)

    def step() -> None:
        optimizer.zero_grad()
        model(1 + 1e-6 * torch.randn(8, 64).to(dtype)).sum().backward()
        optimizer.step()

    with pytest.warns(zeromean.ZeromeanWarning, match="100% of the nonzero gradient entries of w"):
        step()
    step()
    assert monitor.last.layers[0].vanished == 1


def test_unknown_share_does_not_hide_vanished_entries() -> None:
    with pytest.warns(zeromean.ZeromeanWarning, match="50% of the nonzero gradient entries of b"):
        assert warn_of_vanished("backward", {"a": float("nan"), "b": 0.5, "c": 0.1})


def test_vanished_share_counts_entries_equal_to_their_mean() -> None:
    model = nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    # Means 2 and 1; three of the seven nonzero entries equal their mean.
    model.weight.grad = torch.tensor([[2.0, 2.0, 1.0, 3.0], [0.0, 1.0, 2.5, 0.5]])
    optimizer.step()  # not centralized: no warning
    assert monitor.last.layers[0].vanished == pytest.approx(3 / 7)
    assert "42.9%" in str(monitor.last)


@pytest.mark.parametrize("place", ["gradient", "update"])
def test_monitor_hooks_stay_outside_those_of_centralize(place: Any) -> None:
    """Whichever is attached first, so that the monitor never changes how a step is made."""
    for monitor_first in (True, False):
        model = Network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attach = [
            lambda model=model, its=optimizer: zeromean.monitor(
                its, model, every=100, to=lambda sample: None
            ),
            lambda model=model, its=optimizer: zeromean.centralize(its, model, at=place),
        ]
        for one in attach if monitor_first else attach[::-1]:
            one()
        orders: list[list[type]] = []
        optimizer.register_step_pre_hook(
            lambda its, args, kwargs, orders=orders: orders.append(
                [
                    type(getattr(hook, "__self__", None))
                    for hooks in (its._optimizer_step_pre_hooks, its._optimizer_step_post_hooks)
                    for hook in hooks.values()
                ]
            )
        )
        for step in range(2):
            loss_of(model, batch(step)).backward()
            optimizer.step()
        for order in orders:
            names = [kind.__name__ for kind in order if kind is not type(None)]
            assert names == ["StepObserver", "Handle", "Handle", "StepObserver"]


@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize("monitor_first", [True, False])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_observed_steps_are_still_taken_over(
    make: Any, monitor_first: bool, place: Any, native_library: None
) -> None:
    model = Network()
    optimizer = make(model.parameters(), lr=0.01)
    if not monitor_first:
        handle = zeromean.centralize(optimizer, model, at=place, fused=True)
    zeromean.monitor(optimizer, model, every=2, to=lambda sample: None)
    norms = zeromean.diagnose.gradient_norms(optimizer, model=model)
    if monitor_first:
        handle = zeromean.centralize(optimizer, model, at=place, fused=True)
    assert handle.way.name == "taken over"
    for step in range(3):
        loss_of(model, batch(step)).backward()
        optimizer.step()
        assert handle.way.name == "taken over"
    assert norms.norm.shape == (3, 3)
    assert norms.removed.min() > 0


def test_results_have_a_short_repr() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = zeromean.monitor(optimizer, model, to=lambda sample: None)
    assert repr(monitor) == "Monitor(SGD, every 50 steps, no sample yet)"
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert repr(monitor) == "Monitor(SGD, every 50 steps, last sample at step 0)"
    assert repr(monitor.last) == (
        "Sample(step 0, SGD, not centralized: what centering would do; 1 layer)"
    )
    assert "<table>" in monitor.last._repr_html_()

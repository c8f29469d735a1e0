"""One run: what it shares with the other methods' runs of its seed, and what it records."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.study import methods
from zeromean.study import train as module
from zeromean.study.data.load import load
from zeromean.study.methods import METHODS
from zeromean.study.optimizers import OPTIMIZERS
from zeromean.study.settings import Settings
from zeromean.study.train import Run, Task, batches, evaluate, train

CPU = torch.device("cpu")


@pytest.fixture
def task(settings: Settings) -> Task:
    return Task(load(settings.data), CPU)


@dataclasses.dataclass
class Witness:
    """What a run started from, what it was fed, and the network it left."""

    start: list[Tensor]
    fed: list[Tensor]
    network: nn.Module


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> list[Witness]:
    """Filled with one witness a run."""
    witnesses: list[Witness] = []
    original = methods.apply

    def apply(method: str, optimizer: Optimizer, network: nn.Module) -> None:
        start = [parameter.detach().clone() for parameter in network.parameters()]
        seen = Witness(start, [], network)

        def keep(network: nn.Module, args: tuple[Tensor]) -> None:
            if network.training:
                seen.fed.append(args[0].clone())

        network.register_forward_pre_hook(keep)
        witnesses.append(seen)
        original(method, optimizer, network)

    monkeypatch.setattr(methods, "apply", apply)
    return witnesses


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_every_method_of_a_seed_sees_the_same_weights_and_batches(
    task: Task, settings: Settings, witness: list[Witness]
) -> None:
    settings = dataclasses.replace(settings, model="cnn")
    for method in METHODS:
        torch.rand(3)  # whatever else draws random numbers must not matter
        list(train(task, settings, method, seed=1))
    plain, *others = witness
    assert len(plain.fed) == settings.epochs * (48 // settings.batch_size)
    for other in others:
        assert same(plain.start, other.start)
        assert same(plain.fed, other.fed)
        assert not same(list(plain.network.parameters()), list(other.network.parameters()))


def test_another_seed_changes_weights_and_batches(
    task: Task, settings: Settings, witness: list[Witness]
) -> None:
    for seed in (0, 1):
        list(train(task, settings, "plain", seed))
    first, second = witness
    assert not same(first.start, second.start)
    assert not same(first.fed, second.fed)


@pytest.mark.parametrize(
    ("method", "optimizer", "conv_kept", "linear_kept"),
    [
        ("plain", "sgd", False, False),
        ("gc", "sgd", True, True),
        ("gc-conv", "sgd", True, False),
        ("gc-update", "sgd", True, True),
        # Adam's division does not commute with centring: only the update keeps the means.
        ("gc", "adam", False, False),
        ("gc-update", "adam", True, True),
    ],
)
def test_each_method_keeps_the_means_it_stands_for(
    task: Task,
    settings: Settings,
    witness: list[Witness],
    method: str,
    optimizer: str,
    conv_kept: bool,
    linear_kept: bool,
) -> None:
    settings = dataclasses.replace(settings, model="cnn", optimizer=optimizer)
    list(train(task, settings, method, seed=0))
    (seen,) = witness
    kept = {}
    for start, parameter in zip(seen.start, seen.network.parameters(), strict=True):
        if parameter.ndim > 1:
            drift = (parameter.detach() - start).flatten(1).mean(1).abs().max()
            kept.setdefault(parameter.ndim, []).append(drift < 1e-6)
    assert kept == {4: [conv_kept] * 2, 2: [linear_kept]}


def test_an_epoch_meets_each_image_once_and_leaves_an_incomplete_batch_out() -> None:
    first, second = batches(count=23, batch_size=5, epochs=2, seed=0)
    for order in (first, second):
        assert order.shape == (4, 5)
        assert len(order.unique()) == 20
    assert not torch.equal(first, second)
    again = next(batches(count=23, batch_size=5, epochs=1, seed=0))
    assert torch.equal(first, again)


def test_training_images_are_standardized_by_channel(settings: Settings) -> None:
    data = load(settings.data)
    colour = torch.cat([data.train_images, torch.full_like(data.train_images, 7)], dim=1)
    task = Task(
        dataclasses.replace(
            data, train_images=colour, test_images=torch.cat([data.test_images] * 2, 1)
        ),
        CPU,
    )
    images = task.standardize(colour)
    assert images[:, 0].mean().abs() < 1e-5
    assert (images[:, 0].std(correction=0) - 1).abs() < 1e-5
    assert not images[:, 1].any()  # constant, and not divided by zero


def test_evaluation_counts_right_answers_over_all_test_images(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 2.0, 0.0]).expand(len(x), 3)

    monkeypatch.setattr(module, "EVALUATION_BATCH", 5)
    loss, accuracy = evaluate(task, Constant())
    assert accuracy == (task.test_labels == 1).double().mean().item()
    partition = torch.tensor([0.0, 2.0, 0.0]).logsumexp(0).item()
    assert loss == pytest.approx(partition - 2 * accuracy)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_with_every_optimizer(
    task: Task, settings: Settings, optimizer: str, method: str
) -> None:
    settings = dataclasses.replace(settings, model="cnn", optimizer=optimizer, epochs=8)
    epochs = list(train(task, settings, method, seed=0))
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    assert epochs[-1].test_accuracy > 0.6


def test_a_run_that_diverges_ends_with_the_epoch_in_which_it_did(
    task: Task, settings: Settings
) -> None:
    settings = dataclasses.replace(settings, lr=1e30)
    run = Run("plain", 0, tuple(train(task, settings, "plain", seed=0)))
    assert run.diverged
    assert len(run.epochs) == 1


def test_the_host_waits_for_the_device_once_an_epoch_however_many_steps(
    task: Task, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    item = Tensor.item
    monkeypatch.setattr(Tensor, "item", lambda tensor: waits.append(1) or item(tensor))
    counts = []
    for batch_size in (24, 2):
        waits.clear()
        list(train(task, dataclasses.replace(settings, batch_size=batch_size), "gc", seed=0))
        counts.append(len(waits))
    # One for the training loss, two for the test loss and accuracy.
    assert counts == [3 * settings.epochs] * 2


def test_seconds_leave_evaluation_out(
    task: Task, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(task: Task, network: nn.Module) -> tuple[float, float]:
        time.sleep(1)
        return 0.0, 0.0

    monkeypatch.setattr(module, "evaluate", slow)
    epoch = next(train(task, settings, "plain", seed=0))
    assert 0 < epoch.seconds < 1


def test_the_learning_rate_falls_to_zero_along_a_cosine(
    task: Task, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    original = methods.apply

    def apply(method: str, optimizer: Optimizer, network: nn.Module) -> None:
        original(method, optimizer, network)
        optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
        )

    monkeypatch.setattr(methods, "apply", apply)
    list(train(task, dataclasses.replace(settings, lr=0.2), "plain", seed=0))
    steps = torch.arange(len(rates), dtype=torch.float64)
    expected = 0.1 * (1 + torch.cos(torch.pi * steps / len(rates)))
    assert rates == pytest.approx(expected.tolist())

"""One run: what it shares with the other methods' runs of its seed, and what it records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from study_files import patterns
from study_helpers import start, train, with_task
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.errors import ZeromeanError
from zeromean.study import Method, Study, Tuning, run
from zeromean.study.data.load import load_dataset
from zeromean.study.engine.store import Store
from zeromean.study.spec.optimizer import CUSTOMARY
from zeromean.study.tasks import training as module
from zeromean.study.tasks.load import load_problem
from zeromean.study.tasks.preprocessing import PREPROCESSINGS, channel_moments
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.training import Training, batches, evaluate

METHODS = ("plain", "gc", "gc-conv", "gc-update")
MORE = (
    "wn",
    "cwn",
    "ws",
    "wn+gc-update",
    "nnn",
    "zscore",
    "norm=batch",
    "init=he+gc",
)
RATES = {name: one.rates["cnn"] for name, one in CUSTOMARY.items()}


@pytest.fixture
def problem(study: Study) -> Problem:
    return load_problem(study, study.tasks[0])


@dataclasses.dataclass
class Witness:
    """The initial weights, the batches and the final network of a run."""

    start: list[Tensor]
    fed: list[Tensor]
    network: nn.Module


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> list[Witness]:
    """Filled with one witness a run."""
    witnesses: list[Witness] = []
    original = module.attach

    def attach(optimizer: Optimizer, network: nn.Module, method: Method) -> None:
        start = [parameter.detach().clone() for parameter in network.parameters()]
        seen = Witness(start, [], network)

        def keep(network: nn.Module, args: tuple[Tensor]) -> None:
            if network.training:
                seen.fed.append(args[0].clone())

        network.register_forward_pre_hook(keep)
        witnesses.append(seen)
        original(optimizer, network, method)

    monkeypatch.setattr(module, "attach", attach)
    return witnesses


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_methods_of_a_seed_share_weights_and_batches(study: Study, witness: list[Witness]) -> None:
    study = with_task(study, model="cnn")
    for method in METHODS:
        torch.rand(3)  # whatever else draws random numbers must not matter
        train(start(study, method, seed=1))
    plain, *others = witness
    assert len(plain.fed) == study.tasks[0].epochs * (48 // study.tasks[0].batch_size)
    for other in others:
        assert same(plain.start, other.start)
        assert same(plain.fed, other.fed)
        assert not same(list(plain.network.parameters()), list(other.network.parameters()))


def test_another_seed_changes_weights_and_batches(study: Study, witness: list[Witness]) -> None:
    for seed in (0, 1):
        train(start(study, "plain", seed))
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
        # Adam's division does not commute with centering: only the update keeps the means.
        ("gc", "adam", False, False),
        ("gc-update", "adam", True, True),
    ],
)
def test_each_method_keeps_the_means_that_it_should(
    study: Study,
    witness: list[Witness],
    method: str,
    optimizer: str,
    conv_kept: bool,
    linear_kept: bool,
) -> None:
    study = with_task(study, model="cnn", optimizers=(optimizer,))
    train(start(study, method))
    (seen,) = witness
    kept = {}
    for before, parameter in zip(seen.start, seen.network.parameters(), strict=True):
        if parameter.ndim > 1:
            drift = (parameter.detach() - before).flatten(1).mean(1).abs().max()
            kept.setdefault(parameter.ndim, []).append(drift < 1e-6)
    assert kept == {4: [conv_kept] * 2, 2: [linear_kept]}


def test_epoch_uses_each_image_once_without_the_last_batch() -> None:
    first, second = (batches(count=23, batch_size=5, seed=seed) for seed in (0, 1))
    for order in (first, second):
        assert order.shape == (4, 5)
        assert len(order.unique()) == 20
    assert not torch.equal(first, second)
    assert torch.equal(first, batches(count=23, batch_size=5, seed=0))


def test_epochs_differ_in_order(study: Study, witness: list[Witness]) -> None:
    train(start(study))
    (seen,) = witness
    steps = len(seen.fed) // study.tasks[0].epochs
    first, second = torch.cat(seen.fed[:steps]), torch.cat(seen.fed[steps : 2 * steps])
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sum(0), second.sum(0), atol=1e-4, rtol=0)


def test_training_images_are_standardized_by_channel(study: Study) -> None:
    images = load_dataset(study.tasks[0].data).train_images
    color = torch.cat([images, torch.full_like(images, 7)], dim=1)
    mean, deviation = channel_moments(color)
    standard = (color.float() - mean) / deviation
    assert standard[:, 0].mean().abs() < 1e-5
    assert (standard[:, 0].std(correction=0) - 1).abs() < 1e-5
    assert not standard[:, 1].any()  # constant, and not divided by zero


def test_networks_see_standardized_images(study: Study, witness: list[Witness]) -> None:
    train(start(study))
    fed = torch.cat(witness[0].fed)
    assert fed.mean().abs() < 1e-5
    assert (fed.std() - 1).abs() < 1e-3


def test_evaluation_counts_right_answers(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 2.0, 0.0]).expand(len(x), 3)

    monkeypatch.setattr(module, "EVALUATION_BATCH", 5)
    found = evaluate(problem, Constant(), problem.test)
    loss, accuracy = found["loss"], found["score"]
    assert accuracy == (problem.test.targets == 1).double().mean().item()
    partition = torch.tensor([0.0, 2.0, 0.0]).logsumexp(0).item()
    assert loss == pytest.approx(partition - 2 * accuracy)


@pytest.mark.parametrize(("numbers", "largest"), [(2**22, 12), (5 * 64 + 63, 5), (63, 1)])
def test_large_images_are_scored_in_small_batches(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, numbers: int, largest: int
) -> None:
    class Witness(nn.Linear):
        sizes: ClassVar[list[int]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.sizes.append(len(x))
            return super().forward(x.flatten(1))

    Witness.sizes.clear()
    network = Witness(problem.test.inputs[0].numel(), 3)
    whole = evaluate(problem, network, problem.test)
    Witness.sizes.clear()
    monkeypatch.setattr(module, "EVALUATION_NUMBERS", numbers)
    assert evaluate(problem, network, problem.test) == pytest.approx(whole)
    assert max(Witness.sizes) == largest
    assert sum(Witness.sizes) == len(problem.test.targets)


def test_evaluation_does_not_depend_on_random_numbers_drawn_before(problem: Problem) -> None:
    class Sampling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x.flatten(1), 0.5))

    network = Sampling(problem.test.inputs[0].numel(), 3)
    first = evaluate(problem, network, problem.test)
    torch.rand(7)
    assert evaluate(problem, network, problem.test) == first


def test_run_records_final_scores(problem: Problem, study: Study) -> None:
    training = start(study)
    while not training.ended:
        training.advance()
    run = training.run()
    assert run.train_score == evaluate(problem, training.network, problem.train)["score"]
    found = evaluate(problem, training.network, problem.test)
    assert (run.test_loss, run.test_score) == (found["loss"], found["score"])


def test_a_run_continued_from_its_state_ends_the_same(study: Study) -> None:
    for method in (*METHODS, *MORE):
        changed = with_task(study, model="cnn", optimizers=("adamw",))
        whole = start(changed, method)
        halves = start(changed, method)
        whole.advance()
        halves.advance()
        state = halves.state_dict()
        again = start(changed, method)
        torch.rand(7)
        again.load_state_dict(state)
        for training in (whole, again):
            while not training.ended:
                training.advance()
        assert [epoch.loss for epoch in whole.epochs] == [epoch.loss for epoch in again.epochs]
        assert same(list(whole.network.parameters()), list(again.network.parameters()))


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        *((method, name) for method in METHODS for name in CUSTOMARY),
        *((one, "sgd") for one in MORE),
    ],
)
def test_every_method_learns(study: Study, optimizer: str, method: str) -> None:
    study = with_task(study, model="cnn", optimizers=(optimizer,), epochs=8)
    epochs = train(start(study, method, lr=RATES[optimizer]))
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].train_loss < 0.6 * epochs[0].train_loss
    assert epochs[-1].score > 0.6


def test_diverged_run_ends_with_its_epoch(study: Study) -> None:
    training = start(study, lr=1e30)
    training.advance()
    assert training.ended
    run = training.run()
    assert run.diverged
    assert (run.train_score, run.test_loss, run.test_score) == (None, None, None)


def test_nan_test_loss_means_diverged(study: Study, tmp_path: Path) -> None:
    """It is watched on validation images, which it may still do well on."""
    study = replace(study, tuning=Tuning(rates=(0.05,), epochs=1))
    problem = load_problem(study, study.tasks[0])
    inputs = torch.full_like(problem.test.inputs, float("inf"), dtype=torch.float32)
    problem = dataclasses.replace(problem, test=Examples(inputs, problem.test.targets))
    training = start(study, problem=problem)
    while not training.ended:
        training.advance()
    run = training.run()
    assert not run.epochs[-1].diverged
    assert run.diverged
    with Store.create(tmp_path / "study.sqlite", {}) as store:
        store.begin_session({})
        store.add(run)
        (kept,) = store.runs()
    assert kept.diverged
    assert kept.status is run.status


def test_preprocessing_ignores_validation_images(study: Study) -> None:
    study = replace(study, tuning=Tuning(rates=(0.05,), validation=0.5))
    for name in PREPROCESSINGS:
        changed = with_task(study, preprocess=name)
        problem = load_problem(changed, changed.tasks[0])
        apart = PREPROCESSINGS[name].fit(problem.train.inputs)
        together = PREPROCESSINGS[name].fit(
            torch.cat([problem.train.inputs, problem.watched.inputs])
        )
        some = problem.test.inputs[:5]
        assert torch.equal(problem.preprocess(some), apart(some))
        assert not torch.equal(problem.preprocess(some), together(some))


def test_top5_accuracy_needs_more_than_five_classes() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.arange(10.0).expand(len(x), 10)  # classes 5 to 9 are the best five

    digits = Study().tasks[0]
    problem = load_problem(Study(), digits)
    found = evaluate(problem, Fixed(), problem.test)
    assert found["top5_accuracy"] == (problem.test.targets >= 5).double().mean().item()
    assert found["score"] == (problem.test.targets == 9).double().mean().item()


def test_training_accuracy_is_that_of_the_batches(study: Study) -> None:
    run = start(with_task(study, batch_size=48), lr=1e-9)
    epoch = run.advance()
    found = evaluate(run.problem, run.network, run.problem.train)
    assert epoch.metrics["train_score"] == found["score"]
    assert epoch.train_loss == pytest.approx(found["loss"], rel=1e-4)


def test_host_waits_do_not_grow_with_steps(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    item = Tensor.item
    monkeypatch.setattr(Tensor, "item", lambda tensor: waits.append(1) or item(tensor))
    counts = []
    for batch_size in (24, 2):
        waits.clear()
        train(start(with_task(study, batch_size=batch_size), "gc"))
        counts.append(len(waits))
    # Two for training loss and accuracy, one for the test loss.
    assert counts == [3 * study.tasks[0].epochs] * 2


def test_seconds_leave_evaluation_out(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    original = Training._train

    def evaluate(*arguments: object) -> dict[str, float]:
        clock[0] += 4
        return {"loss": 0.0, "score": 0.0}

    def trained(training: Training, seed: int) -> tuple[Tensor, Tensor]:
        clock[0] += 2
        return original(training, seed)

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(Training, "_train", trained)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    assert start(study).advance().seconds == 2


def test_cosine_schedule_takes_a_step_per_batch(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    original = module.attach

    def attach(optimizer: Optimizer, network: nn.Module, method: Method) -> None:
        original(optimizer, network, method)
        optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
        )

    monkeypatch.setattr(module, "attach", attach)
    train(start(study, lr=0.2))
    steps = torch.arange(len(rates), dtype=torch.float64)
    expected = 0.1 * (1 + torch.cos(torch.pi * steps / len(rates)))
    assert rates == pytest.approx(expected.tolist())


def test_bfloat16_keeps_float32_weights(study: Study, witness: list[Witness]) -> None:
    for precision in ("float32", "bfloat16"):
        changed = with_task(study, model="cnn", precision=precision)
        epochs = train(start(changed))
        assert epochs[-1].train_loss < epochs[0].train_loss
    whole, half = witness
    assert all(parameter.dtype == torch.float32 for parameter in half.network.parameters())
    assert same(whole.start, half.start)
    assert not same(list(whole.network.parameters()), list(half.network.parameters()))


def test_convolutions_and_images_are_channels_last(study: Study, tmp_path: Path) -> None:
    # Images of one channel would have this layout in any case.
    images, labels = patterns(30)
    np.savez(tmp_path / "color.npz", images=np.stack([images] * 3, axis=3), labels=labels)
    training = start(with_task(study, data=f"npz:{tmp_path / 'color.npz'}", model="cnn"))
    seen = []
    training.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    evaluate(training.problem, training.network, training.problem.test)
    weights = [one for one in training.network.parameters() if one.ndim == 4]
    for one in (*seen, *weights):
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert not one.is_contiguous()


@pytest.mark.parametrize("where", ["network", "batches"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["device", "torch on a CPU", "Python"],
)
def test_too_little_memory_is_named(
    where: str, error: Exception, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    if where == "network":
        monkeypatch.setattr(Problem, "network", fail)
    else:
        monkeypatch.setattr(Examples, "batches", fail)
    with pytest.raises(ZeromeanError, match=r"does not fit into the memory of cpu.*batch_size"):
        run(study, tmp_path / "out")


def test_random_numbers_of_an_epoch_depend_on_the_seed_alone(
    problem: Problem, study: Study
) -> None:
    dropping = dataclasses.replace(
        problem, make=lambda: nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3))
    )
    first, second = (start(study, problem=dropping) for _ in range(2))
    for _ in range(2):
        loss = first.advance().train_loss
        torch.rand(7)
        assert second.advance().train_loss == loss

"""Optimizers and schedulers of runs: their settings, and the rate of every step."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from study_helpers import start, with_task
from torch import nn

from zeromean import centralize
from zeromean.errors import ZeromeanError
from zeromean.reparam import reparametrize
from zeromean.study import ImageTask, Optimizer, Schedule, Study, run
from zeromean.study.engine import checkpoint
from zeromean.study.engine.checkpoint import Checkpoint
from zeromean.study.networks.build import NETWORKS
from zeromean.study.networks.language_models import TEXT_NETWORKS
from zeromean.study.spec.optimizer import CUSTOMARY
from zeromean.study.spec.records import Candidate
from zeromean.study.spec.task import IMAGE_MODELS, TEXT_MODELS, TIMM_NAME
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.build_optimizer import OPTIMIZERS, build_optimizer, build_scheduler
from zeromean.study.tasks.load import load, load_problem
from zeromean.study.tasks.sgdw import SGDW
from zeromean.study.tasks.training import TrainingTask

HEAD = Optimizer("sgd", head_lr_multiplier=10)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3))


def groups(spec: Optimizer, decay: float | None = None) -> list[dict[str, Any]]:
    return build_optimizer(spec, network(), Candidate(0.2, decay)).param_groups


def test_every_optimizer_and_model_has_customary_settings() -> None:
    assert OPTIMIZERS.keys() == CUSTOMARY.keys()
    assert {*IMAGE_MODELS} == {*NETWORKS}
    assert {*TEXT_MODELS} == {*TEXT_NETWORKS}
    for one in CUSTOMARY.values():
        assert one.rates.keys() == {*IMAGE_MODELS, *TEXT_MODELS, TIMM_NAME}


def test_customary_settings() -> None:
    (group,) = groups(Optimizer("sgd"))
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.9, 5e-4)
    assert not group["nesterov"]
    assert Optimizer("sgd").describe() == "momentum 0.9, weight decay 0.0005"
    assert groups(Optimizer("adam"))[0]["weight_decay"] == 0
    assert groups(Optimizer("adamw"))[0]["weight_decay"] == 1e-2
    assert Optimizer("adamw").describe({None, 0.1}) == (
        "betas 0.9 and 0.999, decoupled weight decay 0.01, 0.1"
    )


def test_given_settings() -> None:
    (group,) = groups(Optimizer("sgd", momentum=0.5, weight_decay=0.001, nesterov=True))
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.5, 0.001, True)
    assert Optimizer("sgd", nesterov=True, lr=0.3).rate("cnn") == 0.3
    assert Optimizer("sgd", nesterov=True).describe() == (
        "momentum 0.9, nesterov, weight decay 0.0005"
    )
    assert Optimizer("sgd", momentum=0).rate("cnn") == 0.05
    (group,) = groups(Optimizer("rmsprop", alpha=0.9, weight_decay=0))
    assert (group["alpha"], group["momentum"], group["weight_decay"]) == (0.9, 0, 0)
    assert groups(Optimizer("adam"), decay=0.25)[0]["weight_decay"] == 0.25  # tuned


@pytest.mark.parametrize("method", ["plain", "cwn", "wn", "nnn"])
def test_the_last_linear_layer_can_have_its_own_rate(method: str) -> None:
    model = network()
    if method != "plain":
        reparametrize(model, method)  # type: ignore[arg-type]
    optimizer = build_optimizer(HEAD, model, Candidate(0.2))
    body, head = optimizer.param_groups
    assert (body["lr"], head["lr"]) == (0.2, 2.0)
    assert {id(one) for one in head["params"]} == {id(one) for one in model[-1].parameters()}
    everything = [*body["params"], *head["params"]]
    assert {id(one) for one in everything} == {id(one) for one in model.parameters()}
    assert len(everything) == len([*model.parameters()])


def test_a_model_of_one_linear_layer_is_all_head() -> None:
    spec = Optimizer("adam", head_lr_multiplier=0.5)
    optimizer = build_optimizer(spec, nn.Linear(3, 2), Candidate(0.2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]


@pytest.mark.parametrize("name", [*NETWORKS, *TEXT_NETWORKS])
def test_the_last_linear_layer_of_every_network_is_its_head(name: str) -> None:
    with torch.device("meta"):
        model = TEXT_NETWORKS[name](7) if name in TEXT_NETWORKS else NETWORKS[name](3, 32, 7)
    optimizer = build_optimizer(HEAD, model, Candidate(0.2))
    assert optimizer.param_groups[1]["params"][0].shape[0] == 7


def test_the_schedule_keeps_the_ratio_of_the_heads_rate(study: Study) -> None:
    training = start(replace(study, optimizers=(HEAD,)), "gc", lr=0.02)
    training.advance()
    body, head = (group["lr"] for group in training.optimizer.param_groups)
    assert 0 < body < 0.02
    assert head == pytest.approx(10 * body)


def test_missing_head_is_refused(study: Study) -> None:
    study = replace(study, optimizers=(HEAD,))
    problem = dataclasses.replace(
        load_problem(study, study.tasks[0]),
        make=lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()),
    )
    with pytest.raises(ZeromeanError, match="has no linear layer"):
        TrainingTask(study, study.tasks[0], problem).check(study.methods, study.optimizers)


def test_a_study_trains_at_the_rates_of_its_optimizers(archive: Path, tmp_path: Path) -> None:
    task = ImageTask(data=f"npz:{archive}", model="mlp", epochs=1, batch_size=8)
    optimizers = (Optimizer("sgd", lr=0.2, weight_decay=0.001), Optimizer("sgdw", lr=0.1), "adam")
    study = Study(tasks=(task,), optimizers=optimizers, seeds=1)  # type: ignore[arg-type]
    rates = {one.key.optimizer: one.candidate.lr for one in run(study, tmp_path).runs}
    assert rates == {"sgd": 0.2, "sgdw": 0.1, "adam": 1e-3}


@given(
    lr=st.floats(0.001, 0.5),
    decay=st.floats(0, 0.5),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
)
def test_sgdw_is_sgd_on_weights_that_the_decay_has_shrunk(
    lr: float, decay: float, momentum: float, nesterov: bool
) -> None:
    nesterov = nesterov and momentum > 0
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    optimizer = SGDW([weight], lr, momentum, decay, nesterov)
    expected, buffer = start.clone(), torch.zeros_like(start)
    for _ in range(4):
        gradient = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        weight.grad = gradient.clone()
        optimizer.step()
        buffer = momentum * buffer + gradient
        step = gradient + momentum * buffer if nesterov else buffer
        expected = (1 - lr * decay) * expected - lr * step
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_sgdw_decay_is_decoupled_under_centering(at: Any) -> None:
    """Decay alone shrinks the mean; of the whole update, nothing moves it."""
    model = nn.Linear(6, 3, bias=False).double()
    before = model.weight.detach().mean(1)
    optimizer = SGDW(model.parameters(), 0.1, momentum=0.9, weight_decay=0.2)
    centralize(optimizer, model, at=at)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(4, 6, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    kept = 1.0 if at == "update" else (1 - 0.1 * 0.2) ** 3
    torch.testing.assert_close(model.weight.detach().mean(1), kept * before)


SCHEDULES = {
    "cosine": Schedule(),
    "constant": Schedule("constant"),
    "step": Schedule("step", every=2),
    "multistep": Schedule("multistep", milestones=(1, 3)),
    "halve": Schedule("halve", steps=5),
    "exponential": Schedule("exponential", end=0.01),
}


def rates(schedule: Schedule, steps: int, epochs: int, peak: float = 1.0) -> list[float]:
    """Return the rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = build_scheduler(schedule, optimizer, steps, epochs)
    found = []
    for _ in range(steps * epochs):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def by_epoch(schedule: Schedule, steps: int, epochs: int) -> list[float]:
    """Return the rate of each epoch, which is the same for all of its steps."""
    found = rates(schedule, steps, epochs)
    blocks = [found[start : start + steps] for start in range(0, len(found), steps)]
    assert all(len(set(block)) == 1 for block in blocks)
    return [block[0] for block in blocks]


def test_the_rates_of_each_schedule() -> None:
    assert by_epoch(SCHEDULES["constant"], 3, 4) == [1, 1, 1, 1]
    assert by_epoch(SCHEDULES["step"], 3, 5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert by_epoch(SCHEDULES["multistep"], 3, 5) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    long = Schedule("multistep", milestones=(50, 80))
    assert by_epoch(long, 2, 100) == pytest.approx([1] * 50 + [0.1] * 30 + [0.01] * 20)
    halved = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert rates(Schedule("halve", steps=4), 3, 3) == halved
    # From 0.1 to 0.001, decayed every two epochs, 100 epochs.
    published = by_epoch(SCHEDULES["exponential"], 2, 100)
    assert published[:2] == [1, 1]
    assert published[-2:] == pytest.approx([0.01, 0.01])
    ratios = [after / before for before, after in pairwise(published[::2])]
    assert ratios == pytest.approx([0.01 ** (1 / 49)] * 49)
    cosine = 0.5 * (1 + torch.cos(torch.pi * torch.arange(12, dtype=torch.float64) / 12))
    assert rates(SCHEDULES["cosine"], 3, 4) == pytest.approx(cosine.tolist())


@given(name=st.sampled_from([*SCHEDULES]), steps=st.integers(1, 7), epochs=st.integers(1, 9))
def test_every_schedule_begins_at_the_peak_and_never_rises(
    name: str, steps: int, epochs: int
) -> None:
    found = rates(SCHEDULES[name], steps, epochs, peak=0.3)
    assert found[0] == 0.3
    assert all(before >= after > 0 for before, after in pairwise(found))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_continued_run_has_the_rates_of_a_whole_one(
    study: Study, name: str, tmp_path: Path
) -> None:
    optimizer = Optimizer("sgd", head_lr_multiplier=3)
    study = with_task(study, schedule=SCHEDULES[name], epochs=4, optimizers=(optimizer,))
    whole, halves, again = (start(study, "gc") for _ in range(3))
    for _ in range(2):
        whole.advance()
        halves.advance()
    path = tmp_path / "work" / "state.pt"
    checkpoint.save(path, Checkpoint(2, checkpoint.to_cpu(halves.state_dict())))
    found = checkpoint.load(path)
    assert found is not None
    again.load_state_dict(found.state)
    while not whole.ended:
        assert whole.advance().loss == again.advance().loss
    for one, other in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("schedule", "least"),
    [
        (Schedule("step", every=3), 4),
        (Schedule("multistep", milestones=(1, 3)), 4),
        (Schedule("exponential", end=0.1), 3),
    ],
)
def test_a_run_too_short_for_its_schedule_is_refused(schedule: Schedule, least: int) -> None:
    assert len(set(by_epoch(schedule, 2, least))) > 1
    ImageTask(schedule=schedule, epochs=least)
    with pytest.raises(SettingError, match=f"needs {least} epochs, but epochs is {least - 1}"):
        ImageTask(schedule=schedule, epochs=least - 1)


def test_schedule_needs_enough_steps(study: Study) -> None:
    task = study.tasks[0]
    steps = task.epochs * load_problem(study, task).steps(task.batch_size)
    for count, fits in ((steps - 1, True), (steps, False)):
        short = with_task(study, schedule=Schedule("halve", steps=count))
        loaded = load(short, short.tasks[0])
        if fits:
            loaded.check(short.methods, short.optimizers)
        else:
            with pytest.raises(SettingError, match=f"but a run has {steps}"):
                loaded.check(short.methods, short.optimizers)

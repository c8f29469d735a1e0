"""Optimizers by their names: what a name sets is what the optimizer does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zeromean.centralization.centralize import centralize
from zeromean.errors import ZeromeanError
from zeromean.reparam import reparametrize
from zeromean.study.engine.train import Training
from zeromean.study.networks.build import NETWORKS, build
from zeromean.study.networks.language_models import TEXT_NETWORKS
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.sgdw import SGDW
from zeromean.study import Study
from zeromean.study import ImageTask
from zeromean.study.tasks.load import load, rehearse
from zeromean.study import Tuning


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def groups(name: str, lr: float = 0.2, decay: float | None = None) -> list[dict[str, Any]]:
    return OptimizerChoice.parse(name).build(network(), Candidate(lr, decay)).param_groups


def test_bare_names_mean_what_they_always_meant() -> None:
    (group,) = groups("sgd")
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.9, 5e-4)
    assert not group["nesterov"]
    assert OptimizerChoice.parse("sgd").describe({None}) == "momentum 0.9, weight decay 0.0005"
    assert groups("adam")[0]["weight_decay"] == 0
    assert groups("adamw")[0]["weight_decay"] == 1e-2
    assert OptimizerChoice.parse("adamw").describe({None, 0.1}) == (
        "betas 0.9 and 0.999, decoupled weight decay 0.01, 0.1"
    )


def test_a_name_sets_what_it_says_and_no_more() -> None:
    (group,) = groups("sgd+lr=0.3+momentum=0.5+decay=0.001+nesterov")
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.5, 0.001, True)
    choice = OptimizerChoice.parse("sgd+nesterov+lr=0.3")
    assert choice.rate("cnn") == 0.3
    assert choice.describe({None}) == "momentum 0.9, nesterov, weight decay 0.0005"
    assert OptimizerChoice.parse("sgd+momentum=0").rate("cnn") == 0.05
    (group,) = groups("rmsprop+alpha=0.9+decay=0")
    assert (group["alpha"], group["momentum"], group["weight_decay"]) == (0.9, 0, 0)
    # What is tuned comes before what is customary.
    assert groups("adam", decay=0.25)[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("method", ["plain", "cwn", "wn", "nnn"])
def test_the_last_linear_layer_has_a_rate_of_its_own(method: str) -> None:
    model = network()
    if method != "plain":
        reparametrize(model, method)  # type: ignore[arg-type]
    optimizer = OptimizerChoice.parse("sgd+head-lr=10").build(model, Candidate(0.2))
    body, head = optimizer.param_groups
    assert (body["lr"], head["lr"]) == (0.2, 2.0)
    assert {id(one) for one in head["params"]} == {id(one) for one in model[-1].parameters()}
    everything = [*body["params"], *head["params"]]
    assert {id(one) for one in everything} == {id(one) for one in model.parameters()}
    assert len(everything) == len([*model.parameters()])


def test_a_model_that_is_one_linear_layer_is_all_head() -> None:
    model = nn.Linear(3, 2)
    optimizer = OptimizerChoice.parse("adam+head-lr=0.5").build(model, Candidate(0.2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]


@pytest.mark.parametrize("name", [*NETWORKS, *TEXT_NETWORKS])
def test_the_last_linear_layer_of_every_network_is_its_head(name: str) -> None:
    model = TEXT_NETWORKS[name](7) if name in TEXT_NETWORKS else build(name, 3, 32, 7, seed=0)
    optimizer = OptimizerChoice.parse("sgd+head-lr=10").build(model, Candidate(0.2))
    weight = optimizer.param_groups[1]["params"][0]
    assert weight.shape[0] == 7


def test_the_schedule_keeps_the_heads_share(study: Study) -> None:
    study = replace(study, optimizers=("sgd+head-lr=10",))
    problem = load(study, study.tasks[0])
    training = Training(
        problem, study, Key(study.tasks[0].label, "sgd+head-lr=10", "gc", 0), Candidate(0.02)
    )
    training.advance()
    body, head = (group["lr"] for group in training.optimizer.param_groups)
    assert 0 < body < 0.02
    assert head == pytest.approx(10 * body)


def test_a_rate_for_a_head_that_is_not_there_is_refused_before_training(study: Study) -> None:
    study = replace(study, optimizers=("sgd+head-lr=10",))
    problem = load(study, study.tasks[0])
    headless = dataclasses.replace(
        problem, make=lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    )
    with pytest.raises(ZeromeanError, match="a network without a linear layer"):
        rehearse(study, study.tasks[0], headless)


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
def test_centering_leaves_the_decay_of_sgdw_outside_the_gradient(at: Any) -> None:
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lion", "optimizer 'lion'; wanted sgd, sgdw, adam"),
        ("", "optimizer ''"),
        ("sgd+speed=3", "with 'speed=3'; wanted sgd, with any of lr=NUMBER"),
        ("adam+momentum=0.9", "with 'momentum=0.9'; wanted adam, with any of"),
        ("sgd+", "with ''; wanted sgd, with any of"),
        ("sgd+momentum", "with 'momentum'; wanted momentum=a number from 0 to below 1"),
        ("sgd+momentum=1", "momentum=a number from 0"),
        ("sgd+lr=0", "lr=a positive float32"),
        ("sgd+lr=nan", "lr=a positive float32"),
        ("sgd+lr=1e39", "lr=a positive float32"),
        ("sgd+head-lr=-1", "head-lr=a positive float32"),
        ("sgd+decay=2", "decay=a number from 0 to 1"),
        ("sgd+nesterov=1", "with 'nesterov=1'; wanted nesterov"),
        ("sgd+nesterov+momentum=0", "nesterov with a momentum above 0"),
        ("sgd+lr=1+lr=2", "with lr twice"),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, message: str) -> None:
    with pytest.raises(ZeromeanError, match="optimizer") as error:
        Study(optimizers=(name,))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.1}, "sgd+lr=0.2 with lr = 0.1"),
        ({"tuning": Tuning(rates=(0.1,))}, "sgd+lr=0.2 with rates to tune"),
        (
            {
                "optimizers": ("sgd+decay=0.1",),
                "tuning": Tuning(rates=(0.1,), weight_decays=(0.1,)),
            },
            "sgd+decay=0.1 with weight_decays to tune",
        ),
        ({"optimizers": ("sgd+lr=1+momentum=0", "sgd+momentum=0+lr=1")}, "which are the same"),
        ({"optimizers": ("sgd", "sgd+momentum=0.9")}, "sgd and sgd+momentum=0.9, which are"),
    ],
)
def test_what_a_name_sets_is_said_in_one_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ZeromeanError) as error:
        Study(**{"optimizers": ("sgd+lr=0.2",), **changes})
    assert message in str(error.value)


def test_a_name_with_a_rate_is_enough_for_a_task_of_ones_own() -> None:
    Study(tasks=(ImageTask(function="user_tasks:signs"),), optimizers=("sgd+lr=0.1", "adam+lr=0.01"))
    with pytest.raises(ZeromeanError, match="without a learning rate"):
        Study(tasks=(ImageTask(function="user_tasks:signs"),), optimizers=("sgd+lr=0.1", "adam"))


def test_a_study_trains_at_the_rates_of_its_names(archive: Path, tmp_path: Path) -> None:
    task = ImageTask(data=f"npz:{archive}", model="mlp", epochs=1, batch_size=8)
    names = ("sgd+lr=0.2+decay=0.001", "sgdw+lr=0.1", "adam")
    results = Study(tasks=(task,), optimizers=names, seeds=1).run(tmp_path)
    rates = {one.key.optimizer: one.candidate.lr for one in results.runs}
    assert rates == {names[0]: 0.2, names[1]: 0.1, "adam": 1e-3}

"""Runs that train together: each is the run that it would be alone, whatever the others do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_conduct import PowerCut, records
from torch import nn

from zeromean.study.engine.stacked import Stack, StackedNetworks, fits
from zeromean.study.engine.train import Training
from zeromean.study.engine.units import MEMBERS, units
from zeromean.study.facts import Facts
from zeromean.study.methods import Method
from zeromean.study.problem import Examples, Problem
from zeromean.study.run import Candidate, Epoch, Key
from zeromean.study.study import Study
from zeromean.study.tasks.load import load
from zeromean.study.tuning import Tuning

METHODS = ("plain", "gc", "gc-update", "wn+gc", "cwn", "ws", "zscore", "clip-norm=0.1", "init=he")


@pytest.fixture
def problem(study: Study) -> Problem:
    """In float64."""
    loaded = load(study, study.tasks[0])

    def wide(examples: Examples) -> Examples:
        return Examples(loaded.prepare(examples.inputs).double(), examples.targets)

    return dataclasses.replace(
        loaded,
        train=wide(loaded.train),
        watched=wide(loaded.watched),
        test=wide(loaded.test),
        fit=lambda inputs: lambda batch: batch,
        make=lambda: loaded.make().double(),
    )


def start(problem: Problem, study: Study, method: str, *rates: float) -> list[Training]:
    """A run for each rate, each with a seed of its own."""
    label, optimizer = study.tasks[0].label, study.optimizers[0]
    return [
        Training(problem, study, Key(label, optimizer, method, seed), Candidate(rate))
        for seed, rate in enumerate(rates)
    ]


def close(first: Training, second: Training) -> None:
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for one, other in zip(first.epochs, second.epochs, strict=True):
        assert (one.number, one.score) == (other.number, other.score)
        assert one.loss == pytest.approx(other.loss, rel=1e-10)
        # Added up in float32, as reports need no more.
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-6)


@pytest.mark.parametrize(
    ("method", "optimizer", "schedule"),
    [
        *((method, "sgd", "cosine") for method in METHODS),
        ("plain", "sgd+momentum=0+decay=0", "halve=5"),
        ("gc", "adamw", "every=1"),
        ("cwn", "adagrad", "constant"),
    ],
)
def test_seeds_and_rates_together_are_what_they_are_alone(
    problem: Problem, study: Study, method: str, optimizer: str, schedule: str
) -> None:
    task = dataclasses.replace(study.tasks[0], schedule=schedule)
    study = dataclasses.replace(study, tasks=(task,), optimizers=(optimizer,))
    rates = (0.05, 0.02, 0.01) if optimizer.startswith("sgd") else (0.003, 0.002, 0.001)
    assert fits(problem.network(Method.parse(method), 0), task.batch_size)
    stack = Stack(start(problem, study, method, *rates), together=True)
    alone = start(problem, study, method, *rates)
    while not stack.ended:
        stack.advance()
    for one, other in zip(alone, stack.trainings, strict=True):
        while not one.ended:
            one.advance()
        close(one, other)
        assert one.epochs[-1].train_loss < one.epochs[0].train_loss


def test_a_run_that_diverges_leaves_the_stack_and_disturbs_nobody(
    problem: Problem, study: Study
) -> None:
    rates = (0.05, 1e300, 0.02)
    stack = Stack(start(problem, study, "wn", *rates), together=True)
    alone = start(problem, study, "wn", *rates)
    assert stack.advance() == stack.trainings
    assert stack.trainings[1].run().diverged
    assert stack.advance() == [stack.trainings[0], stack.trainings[2]]
    stack.advance()
    assert stack.ended
    for place in (0, 2):
        while not alone[place].ended:
            alone[place].advance()
        close(alone[place], stack.trainings[place])


def test_outputs_and_gradients_are_each_networks_own(problem: Problem) -> None:
    networks = [problem.network(Method.parse("cwn"), seed) for seed in range(3)]
    inputs = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    expected = [network(one) for network, one in zip(networks, inputs, strict=True)]
    losses = [output.square().sum() for output in expected]
    gradients = [
        torch.autograd.grad(loss, [*network.parameters()])
        for network, loss in zip(networks, losses, strict=True)
    ]
    stacked = StackedNetworks(networks)
    outputs = stacked(inputs)
    torch.testing.assert_close(outputs, torch.stack(expected))
    stacked.backward(outputs.square().sum((1, 2)))
    for network, own in zip(networks, gradients, strict=True):
        for parameter, gradient in zip(network.parameters(), own, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(
    ("network", "batch_size", "right"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 32, True),
        (lambda: nn.Sequential(nn.Linear(1000, 1000)), 8, False),
        (lambda: nn.Sequential(nn.Linear(1000, 1000)), 7, True),
        (lambda: nn.Sequential(nn.Linear(9, 9), nn.Dropout()), 2, False),
        (lambda: nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9)), 2, False),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), 2, False),
        (lambda: nn.Linear(9, 9), 2, False),
    ],
)
def test_small_perceptrons_are_stacked(
    network: Callable[[], nn.Module], batch_size: int, right: bool
) -> None:
    assert fits(network(), batch_size) is right


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({}, ["plain", "cwn"]),
        ({"precision": "bfloat16"}, []),
        ({"task": {"model": "cnn"}}, []),
    ],
)
def test_what_trains_together_is_a_fact_of_the_task(
    study: Study, changes: dict[str, Any], together: list[str]
) -> None:
    task = dataclasses.replace(study.tasks[0], **changes.pop("task", {}))
    study = dataclasses.replace(
        study, tasks=(task,), methods=("plain", "nnn", "cwn", "norm=batch"), **changes
    )
    if task.model == "cnn":
        study = dataclasses.replace(study, methods=("plain", "gc"))
    assert Facts.of(study, task, load(study, task)).stacked == together


@pytest.mark.parametrize("seeds", range(1, 10))
def test_units_hold_every_run_once_however_they_are_cut(study: Study, seeds: int) -> None:
    tuning = Tuning(rates=(0.1, 0.2, 0.3), seeds=2, epochs=1)
    study = dataclasses.replace(
        study,
        seeds=seeds,
        tuning=tuning,
        methods=("plain", "nnn", "gc"),
        optimizers=("sgd", "adam"),
    )
    cut = units(study, {study.tasks[0].label: ["plain", "gc"]})
    alone = units(study)
    names = [unit.name for unit in cut]
    assert len(set(names)) == len(names)
    for found in (cut, alone):
        keys = [key for unit in found for key in unit.keys]
        assert len(set(keys)) == len(keys) == 2 * 3 * (3 * 2 + seeds)
    assert {key for unit in cut for key in unit.keys} == {k for unit in alone for k in unit.keys}
    assert {len(stack) for unit in alone for stack in unit.stacks} == {1}
    for unit in cut:
        for stack in unit.stacks:
            assert len({key.method for key in stack}) == 1
            assert len(stack) == 1 or stack[0].method != "nnn"
            assert len(stack) <= MEMBERS
    sizes = [len(stack) for unit in cut for stack in unit.stacks if stack[0].method == "gc"]
    assert len(sizes) == 2 * (math.ceil(seeds / MEMBERS) + math.ceil(6 / MEMBERS))


@pytest.mark.parametrize("epoch", range(0, 16, 3))
def test_cut_after_one_diverged_a_stack_goes_on_bit_for_bit(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    original = Training.end_epoch

    def diverge(training: Training, total_loss: float, seconds: float) -> Epoch:
        if (training.key.seed, len(training.epochs)) == (1, 1):
            total_loss = math.nan
        return original(training, total_loss, seconds)

    monkeypatch.setattr(Training, "end_epoch", diverge)
    study = dataclasses.replace(study, seeds=3)
    with pytest.raises(RuntimeError, match="power cut"):
        study.run(tmp_path / "cut", watcher=PowerCut(epoch))
    cut = records(study.run(tmp_path / "cut"))
    assert repr(cut) == repr(records(study.run(tmp_path / "whole")))  # nan, too, is nan


def test_a_grid_s_rates_are_tuned_together(study: Study, tmp_path: Path) -> None:
    tuned = dataclasses.replace(
        study, tuning=Tuning(rates=(0.01, 0.05, 1e30), seeds=2), methods=("plain", "cwn")
    )
    results = tuned.run(tmp_path)
    rates: dict[int, set[float]] = {}
    for run in results.runs:
        if run.key.trial >= 0:
            rates.setdefault(run.key.trial, set()).add(run.candidate.lr)
            assert run.diverged == (run.candidate.lr > 1)
    assert rates == {0: {0.01}, 1: {0.05}, 2: {1e30}}


def test_a_study_whose_runs_all_diverge_ends(study: Study, tmp_path: Path) -> None:
    results = dataclasses.replace(study, lr=1e30).run(tmp_path)
    assert [len(run.epochs) for run in results.runs if run.diverged] == [1] * 4

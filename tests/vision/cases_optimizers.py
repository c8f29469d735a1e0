"""The contracts of third-party optimizers, run over timm's."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm import optim
from timm.optim.kron import Kron

import zeromean
from fast_programs import run_here
from zeromean.centralization.optimizer_traits import traits_of

sys.path += [str(Path(__file__).parents[1] / name) for name in ("third_party", "programs")]
import test_optimizer_contracts as contracts
from optimizer_cases import Case

from programs import by_hand, script, zeromean_run

LR: dict[str, Any] = {"lr": 0.01}
MOMENTUM = LR | {"momentum": 0.9}
DECOUPLED = {
    "AdafactorBigVision": (optim.AdafactorBigVision, LR),
    "Adafactor": (optim.Adafactor, LR),
    "AdamP": (optim.AdamP, LR),
    "AdamWLegacy": (optim.AdamWLegacy, LR),
    "Adan": (optim.Adan, LR),
    "Lamb": (optim.Lamb, LR),
    "Lamb, decoupled": (optim.Lamb, LR | {"decoupled_decay": True}),
    "LaProp": (optim.LaProp, LR),
    "Lion": (optim.Lion, LR),
    "Mars": (optim.Mars, LR),
    "Muon": (optim.Muon, LR),
    "NAdamW": (optim.NAdamW, LR),
    "NvNovoGrad": (optim.NvNovoGrad, LR),
    "RAdamLegacy": (optim.RAdamLegacy, LR),
    "SGDP": (optim.SGDP, MOMENTUM),
    "SGDW": (optim.SGDW, MOMENTUM),
}
FLAGGED = {
    "AdaBelief": (optim.AdaBelief, "decoupled_decay"),
    "Adopt": (optim.Adopt, "decoupled"),
    "MADGRAD": (optim.MADGRAD, "decoupled_decay"),
    "RMSpropTF": (partial(optim.RMSpropTF, centered=True), "decoupled_decay"),
}
CASES = {name: Case(make, options, "decoupled") for name, (make, options) in DECOUPLED.items()}
CASES["NAdamLegacy"] = Case(optim.NAdamLegacy, LR, "coupled")
CASES |= {
    f"{name}, {flag}={value}": Case(make, LR | {flag: value}, "decoupled" if value else "coupled")
    for name, (make, flag) in FLAGGED.items()
    for value in (False, True)
}


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(contracts, "CASES", CASES)


@pytest.mark.parametrize("name", CASES)
def test_sees_the_centered_gradient(name: str) -> None:
    contracts.check_what_it_saw(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_the_whole_update_is_projected(name: str) -> None:
    contracts.test_the_whole_update_is_projected(name, lambda *row: None)


def test_lars_keeps_the_means() -> None:
    case = Case(optim.Lars, MOMENTUM, "coupled")
    for at in ("gradient", "update"):
        model = contracts.layers(case)
        before = contracts.means(model)
        optimizer = contracts.build(case, model, contracts.DECAY)
        zeromean.centralize(optimizer, model, at=at)
        contracts.run(model, optimizer, range(3))
        torch.testing.assert_close(contracts.means(model), before)


@pytest.mark.parametrize("make", [optim.Adahessian, Kron])
def test_others_are_known(make: Any) -> None:
    optimizer = make(torch.nn.Linear(3, 2).parameters())
    assert traits_of(optimizer).known
    assert traits_of(optimizer).decay == "decoupled"


def test_program_with_lookahead_trains_as_centralized_by_hand(tmp_path: Path) -> None:
    line = 'optimizer = create_optimizer_v2(model, opt="lookahead_sgd", lr=0.1, weight_decay=1e-4)'
    added = "zeromean.centralize(optimizer._base_optimizer, model)"
    expected = run_here(by_hand("timm_lookahead", {line: added}, tmp_path))
    done = zeromean_run(script("timm_lookahead"))
    assert (done.code, done.out) == (0, expected)
    outer, inner = done.record.optimizers
    assert (outer.optimizer, outer.state) == ("Lookahead", "left alone")
    assert (inner.optimizer, inner.centered, inner.steps, inner.holds) == ("SGD", 2, 7, True)
    assert inner.mean_change is not None
    assert inner.mean_change < 1e-6

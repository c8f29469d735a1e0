"""The published names and keywords walk the published trajectories, on every backend."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zeromean
from golden_cases import CASES, Case
from zeromean import compat


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_step_agrees_to_1e_12(case: Case) -> None:
    parameters = [nn.Parameter(start.clone()) for start in case.start]
    optimizer = getattr(compat, case.optimizer)(parameters, **case.hyper)
    case.walk(parameters, optimizer)


def test_every_published_name_is_there() -> None:
    names = [f"{kind}_{suffix}" for kind in ("SGD", "SGDW", "Adagrad") for suffix in ("GC", "GCC")]
    names += [f"{k}_{s}" for k in ("Adam", "AdamW") for s in ("GC", "GCC", "GC2", "GCC2")]
    assert len(names) == 14
    for name in names:
        assert issubclass(getattr(compat, name), torch.optim.Optimizer)


def test_without_use_gc_it_is_torchs() -> None:
    model = nn.Linear(4, 3)
    other = copy.deepcopy(model)
    optimizer = compat.AdamW(model.parameters(), lr=0.1)
    twin = torch.optim.AdamW(other.parameters(), lr=0.1)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    optimizer.step()
    twin.step()
    torch.testing.assert_close(model.weight, other.weight)
    assert not optimizer.plan.rows


def test_what_the_published_classes_did_not_take_is_refused() -> None:
    with pytest.raises(zeromean.ZeromeanError, match=r"zeromean\.optim"):
        compat.SGD_GC(nn.Linear(4, 3), lr=0.1)
    with pytest.raises(zeromean.ZeromeanError, match=r"zeromean\.optim"):
        compat.Adam_GC(nn.Linear(4, 3).parameters(), at="update")

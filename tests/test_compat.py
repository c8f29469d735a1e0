"""Compare the published names and keywords with the published trajectories, per backend."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zeromean
from golden_cases import CASES, Case
from zeromean import compat


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_agree_with_the_published_code_to_1e_12(case: Case) -> None:
    parameters = [nn.Parameter(start.clone()) for start in case.start]
    optimizer = getattr(compat, case.optimizer)(parameters, **case.hyper)
    case.walk(parameters, optimizer)


def test_every_published_name_exists() -> None:
    names = [f"{kind}_{suffix}" for kind in ("SGD", "SGDW", "Adagrad") for suffix in ("GC", "GCC")]
    names += [f"{k}_{s}" for k in ("Adam", "AdamW") for s in ("GC", "GCC", "GC2", "GCC2")]
    assert len(names) == 14
    for name in names:
        assert issubclass(getattr(compat, name), torch.optim.Optimizer)


@pytest.mark.parametrize(("gc_loc", "at"), [(True, "gradient"), (False, "update")])
def test_ranger_equals_the_drop_in(gc_loc: bool, at: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).double()
    twin = copy.deepcopy(model)
    keywords: Any = {"lr": 0.1, "weight_decay": 0.2, "k": 2}
    optimizer = compat.Ranger(model.parameters(), gc_loc=gc_loc, **keywords)
    other = zeromean.optim.Ranger(twin, at=at, decoupled_weight_decay=True, **keywords)
    for _ in range(8):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        other.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert zeromean.status(optimizer).centered == 2
    off = compat.Ranger(model.parameters(), use_gc=False)
    assert zeromean.status(off).attached is None
    conv = compat.Ranger(
        [nn.Parameter(torch.randn(2, 2, 3, 3)), model[0].weight], gc_conv_only=True
    )
    assert zeromean.status(conv).centered == 1
    with pytest.raises(zeromean.ZeromeanError, match="N_sma_threshhold is 4"):
        compat.Ranger(model.parameters(), N_sma_threshhold=4)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("SGD", {"gc_conv_only": True}),
        ("AdamW", {"gc_loc": True}),
        ("Ranger", {"gc_conv_only": True}),
        ("Ranger", {"gc_loc": False}),
    ],
)
def test_option_without_effect_is_refused(kind: str, option: dict[str, bool]) -> None:
    (name,) = option
    with pytest.raises(zeromean.ZeromeanError, match=f"{name} has no effect with use_gc=False"):
        getattr(compat, kind)(nn.Linear(3, 2).parameters(), lr=0.1, use_gc=False, **option)


def test_centralized_gradient_works_in_place() -> None:
    for shape, conv_only, centered in (
        ((3, 4), False, True),
        ((3, 4), True, False),
        ((3, 4, 2, 2), True, True),
        ((4,), False, False),
        ((4, 1), False, False),
    ):
        x = torch.randn(shape)
        before = x.clone()
        assert compat.centralized_gradient(x, gc_conv_only=conv_only) is x
        if centered:
            expected = before - before.mean(tuple(range(1, x.ndim)), keepdim=True)
            torch.testing.assert_close(x, expected)
        else:
            assert torch.equal(x, before)
    x = torch.randn(3, 4)
    assert torch.equal(compat.centralized_gradient(x.clone(), use_gc=False), x)


def test_star_import_has_only_the_published_names() -> None:
    names: dict[str, object] = {}
    exec("from zeromean.compat import *", names)
    assert set(names) - {"__builtins__"} == set(compat.__all__)


def test_without_use_gc_equals_torch() -> None:
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


def test_unpublished_arguments_raise() -> None:
    with pytest.raises(zeromean.ZeromeanError, match=r"zeromean\.optim"):
        compat.SGD_GC(nn.Linear(4, 3), lr=0.1)
    with pytest.raises(zeromean.ZeromeanError, match=r"zeromean\.optim"):
        compat.Adam_GC(nn.Linear(4, 3).parameters(), at="update")


def test_centralized_gradient_accepts_empty_tensors() -> None:
    for shape in ((0, 3), (3, 0), (0, 3, 2, 2)):
        assert compat.centralized_gradient(torch.empty(shape)).shape == shape

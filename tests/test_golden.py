"""Compare centralize on torch's optimizers with the trajectories of the published ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeromean
from golden_cases import CASES, Case

# SGDW has no torch class to attach to.
TORCH_CASES = [case for case in CASES if not case.optimizer.startswith("SGDW")]


def as_centralize(case: Case) -> tuple[type[torch.optim.Optimizer], dict, dict[str, str]]:
    """Return torch's class, its settings, and those of centralize for a published name."""
    hyper = dict(case.hyper)
    kind, _, suffix = case.optimizer.partition("_")
    conv_only = hyper.pop("gc_conv_only", suffix.startswith("GCC"))
    at_gradient = hyper.pop("gc_loc", not suffix.endswith("2"))
    hyper.pop("use_gc", None)
    options = {
        "layers": "conv" if conv_only else "all",
        "at": "gradient" if at_gradient else "update",
    }
    return getattr(torch.optim, kind), hyper, options


@pytest.mark.parametrize("case", TORCH_CASES, ids=str)
def test_steps_agree_to_1e_12(case: Case) -> None:
    optimizer_class, hyper, options = as_centralize(case)
    parameters = [nn.Parameter(start.clone()) for start in case.start]
    optimizer = optimizer_class(parameters, **hyper)
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes are known"):
        zeromean.centralize(optimizer, **options)
    case.walk(parameters, optimizer)


def test_every_optimizer_and_place_is_covered() -> None:
    assert len(TORCH_CASES) == 21
    found = [as_centralize(case) for case in TORCH_CASES]
    assert {(kind.__name__, options["at"]) for kind, _, options in found} == {
        *((kind, "gradient") for kind in ("SGD", "Adam", "AdamW", "Adagrad")),
        *((kind, "update") for kind in ("Adam", "AdamW")),
    }

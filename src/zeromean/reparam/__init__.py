"""Re-parametrizations with zero-mean weights: the weight is computed from a trained proxy."""

from __future__ import annotations

from zeromean.reparam.changes import Change as Change
from zeromean.reparam.changes import Report as Report
from zeromean.reparam.convert import reparametrize as reparametrize
from zeromean.reparam.folding import fold as fold
from zeromean.reparam.nnn import NaturalLinear as NaturalLinear
from zeromean.reparam.torch_weight_norm import from_torch as from_torch
from zeromean.reparam.torch_weight_norm import old_names as old_names
from zeromean.reparam.torch_weight_norm import to_torch as to_torch

__all__ = [
    "Change",
    "NaturalLinear",
    "Report",
    "fold",
    "from_torch",
    "old_names",
    "reparametrize",
    "to_torch",
]


def __dir__() -> list[str]:
    return sorted(__all__)

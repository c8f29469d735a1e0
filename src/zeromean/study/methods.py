"""The methods that a comparison can set side by side: where, and in which layers, GC acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from zeromean.attach import centralize

BASELINE = "plain"


@dataclass(frozen=True)
class Centring:
    """The arguments of ``zeromean.centralize`` that make up a method."""

    at: Literal["gradient", "update"]
    layers: Literal["all", "conv"]


METHODS: dict[str, Centring | None] = {
    BASELINE: None,
    "gc": Centring(at="gradient", layers="all"),
    "gc-conv": Centring(at="gradient", layers="conv"),
    "gc-update": Centring(at="update", layers="all"),
}


def describe(method: str) -> str:
    """The call that a method stands for, as a reader would write it."""
    centring = METHODS[method]
    if centring is None:
        return "the optimizer as it is"
    return f'centralize(optimizer, model, at="{centring.at}", layers="{centring.layers}")'


def apply(method: str, optimizer: Optimizer, network: nn.Module) -> None:
    """Hooks the method's centring on ``optimizer``; the baseline is left as it is."""
    centring = METHODS[method]
    if centring is not None:
        centralize(optimizer, network, at=centring.at, layers=centring.layers)

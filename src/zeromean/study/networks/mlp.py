"""A multilayer perceptron."""

from __future__ import annotations

from torch import nn


def mlp(channels: int, side: int, classes: int, hidden: int = 256) -> nn.Module:
    """Two hidden layers of ``hidden`` rectified units."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * side * side, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )

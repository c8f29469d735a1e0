"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def perceptron(inputs: int, hidden: Sequence[int], classes: int) -> nn.Module:
    """Linear layers with ReLU between them.

    Args:
        inputs: Numbers in an example.
        hidden: Units of each hidden layer.
        classes: Number of outputs.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], classes))


def mlp(channels: int, side: int, classes: int) -> nn.Module:
    """Two hidden layers of 256 rectified units."""
    return perceptron(channels * side**2, (256, 256), classes)


def mlp_yaleb(channels: int, side: int, classes: int) -> nn.Module:
    """Hidden layers of 128, 64, 48 and 48 units: the CWN paper's for Yale-B (section 4.1)."""
    return perceptron(channels * side**2, (128, 64, 48, 48), classes)


def mlp_svhn(channels: int, side: int, classes: int) -> nn.Module:
    """Six layers, the hidden ones of 128 units: the CWN paper's for SVHN (section 4.1).

    The method ``norm=batch`` puts batch normalization before each nonlinearity (its Figure 4a).
    """
    return perceptron(channels * side**2, (128,) * 5, classes)

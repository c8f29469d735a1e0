"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from zeromean.study.networks.initialization import initialize


def perceptron(inputs: int, hidden: Sequence[int], classes: int) -> nn.Module:
    """Make linear layers with ReLU between them.

    Args:
        inputs: Number of inputs.
        hidden: Number of units of each hidden layer.
        classes: Number of outputs.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], classes))


def mlp(channels: int, side: int, classes: int) -> nn.Module:
    """Make two hidden layers of 256 units with ReLU."""
    return perceptron(channels * side**2, (256, 256), classes)


def mlp_yaleb(channels: int, side: int, classes: int) -> nn.Module:
    """Make hidden layers of 128, 64, 48 and 48 units, the CWN paper's for Yale-B (section 4.1).

    Initial weights are LeCun's, the paper's default.
    """
    return initialize(perceptron(channels * side**2, (128, 64, 48, 48), classes), name="lecun")


def mlp_svhn(channels: int, side: int, classes: int) -> nn.Module:
    """Make six layers with 128 hidden units, the CWN paper's for SVHN (section 4.1).

    The method ``norm=batch`` adds batch normalization before each nonlinearity (its Figure 4a).
    """
    return initialize(perceptron(channels * side**2, (128,) * 5, classes), name="lecun")

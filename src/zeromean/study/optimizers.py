"""The optimizers that a comparison can use, with the learning rates taken when none is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class OptimizerChoice:
    """One optimizer with everything but the learning rate settled.

    Args:
        build: From a network and a learning rate to the optimizer.
        learning_rates: The customary learning rate of each network.
        note: The settled arguments, for reports.
    """

    build: Callable[[nn.Module, float], Optimizer]
    learning_rates: Mapping[str, float]
    note: str


def _same(rate: float) -> dict[str, float]:
    return dict.fromkeys(("mlp", "cnn", "resnet20", "resnet18"), rate)


OPTIMIZERS: dict[str, OptimizerChoice] = {
    "sgd": OptimizerChoice(
        lambda network, lr: torch.optim.SGD(
            network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4
        ),
        # He et al. train residual networks at 0.1; the small networks go without a warm-up at half.
        {"mlp": 0.05, "cnn": 0.05, "resnet20": 0.1, "resnet18": 0.1},
        "momentum 0.9, weight decay 0.0005",
    ),
    "adam": OptimizerChoice(
        lambda network, lr: torch.optim.Adam(network.parameters(), lr=lr),
        _same(1e-3),
        "betas 0.9 and 0.999, no weight decay",
    ),
    "adamw": OptimizerChoice(
        lambda network, lr: torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2),
        _same(1e-3),
        "betas 0.9 and 0.999, decoupled weight decay 0.01",
    ),
    "adagrad": OptimizerChoice(
        lambda network, lr: torch.optim.Adagrad(network.parameters(), lr=lr),
        _same(1e-2),
        "no weight decay",
    ),
}

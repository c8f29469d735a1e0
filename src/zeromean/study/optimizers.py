"""The optimizers that a study can use, with the learning rates taken when none is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from zeromean.study.networks.build import OF_TIMM
from zeromean.study.run import Candidate


@dataclass(frozen=True)
class OptimizerChoice:
    """One optimizer with everything settled but what is tuned.

    Args:
        make: From parameters, learning rate and weight decay to the optimizer.
        weight_decay: The customary one.
        learning_rates: The customary learning rate of each network.
        note: The settled arguments, for reports.
    """

    make: Callable[..., Optimizer]
    weight_decay: float
    learning_rates: Mapping[str, float]
    note: str

    def build(self, network: nn.Module, candidate: Candidate) -> Optimizer:
        """An optimizer of all parameters of the network."""
        decay = candidate.weight_decay
        return self.make(
            network.parameters(),
            lr=candidate.lr,
            weight_decay=self.weight_decay if decay is None else decay,
        )

    def describe(self, decays: set[float | None]) -> str:
        """The arguments, for reports; ``decays`` are those that were used."""
        shown = sorted({self.weight_decay if one is None else one for one in decays})
        return f"{self.note}weight decay {', '.join(f'{one:g}' for one in shown)}"


# Networks that share their customary rates: without normalization, and with it after each layer.
PLAIN = ("mlp", "mlp-yaleb", "mlp-svhn", "cnn", "vgga")
NORMALIZED = (
    "resnet20", "resnet18", "resnet50", "resnet56", "resnet101", "resnext29", "vgg11",
    "densenet121", "googlenet", OF_TIMM,
)  # fmt: skip


def _rates(
    images: float, lstm: float, transformer: float, residual: float, horses: float
) -> dict[str, float]:
    return {
        **dict.fromkeys(PLAIN, images),
        **dict.fromkeys(NORMALIZED, residual),
        "horses": horses,
        "lstm": lstm,
        "transformer": transformer,
    }


OPTIMIZERS: dict[str, OptimizerChoice] = {
    "sgd": OptimizerChoice(
        lambda parameters, lr, weight_decay: torch.optim.SGD(
            parameters, lr=lr, momentum=0.9, weight_decay=weight_decay
        ),
        5e-4,
        # He et al. train residual networks at 0.1; the small networks go without a warm-up at half.
        _rates(0.05, lstm=1.0, transformer=0.1, residual=0.1, horses=0.01),
        "momentum 0.9, ",
    ),
    "adam": OptimizerChoice(
        torch.optim.Adam,
        0.0,
        _rates(1e-3, lstm=3e-3, transformer=1e-3, residual=1e-3, horses=1e-4),
        "betas 0.9 and 0.999, coupled ",
    ),
    "adamw": OptimizerChoice(
        torch.optim.AdamW,
        1e-2,
        _rates(1e-3, lstm=3e-3, transformer=1e-3, residual=1e-3, horses=1e-4),
        "betas 0.9 and 0.999, decoupled ",
    ),
    "adagrad": OptimizerChoice(
        torch.optim.Adagrad,
        0.0,
        _rates(1e-2, lstm=3e-2, transformer=1e-2, residual=1e-2, horses=1e-3),
        "coupled ",
    ),
}

"""What a centered step is told: one rule a param group, one entry a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from zeromean.fan_in import FanIn

At = Literal["gradient", "update"]
Kind = Literal["sgd", "momentum", "nesterov", "adam", "amsgrad"]

# A weight, and the lambda that it decays with inside the projection.
Decay = tuple[Tensor, float | Tensor]

# What may change between steps: on a GPU a tensor there, which nobody waits for.
Number = float | Tensor

# The running tensors, shaped like the weight, that each kind of step keeps under torch's names.
STATE: dict[Kind, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("momentum_buffer",),
    "nesterov": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "amsgrad": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
}


@dataclass(frozen=True)
class SGDRule:
    """One step of SGD, in torch's meaning of its options.

    Args:
        lr: Learning rate.
        momentum, dampening, nesterov: As in ``torch.optim.SGD``.
        weight_decay: lambda; with ``decoupled`` the weights shrink by ``lr * lambda`` beside the
            step (SGDW), else ``lambda * w`` is added to the gradient.
        maximize: Whether to step up the gradient.
    """

    lr: Number
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False

    @property
    def kind(self) -> Kind:
        """Which step this is."""
        return "sgd" if self.momentum == 0 else "nesterov" if self.nesterov else "momentum"


@dataclass(frozen=True)
class AdamRule:
    """One step of Adam or AdamW, in torch's meaning of its options.

    Args:
        lr: Learning rate.
        betas, eps, amsgrad: As in ``torch.optim.Adam``.
        weight_decay: lambda; with ``decoupled`` the weights shrink by ``lr * lambda`` beside the
            step (AdamW), else ``lambda * w`` is added to the gradient.
        maximize: Whether to step up the gradient.
    """

    lr: Number
    betas: tuple[Number, Number]
    eps: float
    amsgrad: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False

    @property
    def kind(self) -> Kind:
        """Which step this is."""
        return "amsgrad" if self.amsgrad else "adam"


Rule = SGDRule | AdamRule


class Entry(NamedTuple):
    """One parameter of a step.

    Args:
        weight: The parameter.
        fan_in: Its fan-in axes, or None if it is not centered.
        state: The optimizer's state of it, under torch's names.
        group: Which rule is its.
        residual: What rounding has taken from each vector's mean so far, as
            :class:`zeromean.kernels.residuals.Residuals` has it; else None.
        waits: Whether it has no gradient here this time, but a part of vectors that lie on several
            ranks: it takes part in their sums, and is not stepped.
    """

    weight: Tensor
    fan_in: FanIn | None
    state: dict[str, Any]
    group: int
    residual: Tensor | None = None
    waits: bool = False

"""Describe a centered step: one rule per param group, one entry per parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from zeromean.fan_in import FanIn

At = Literal["gradient", "update"]
Kind = Literal["sgd", "momentum", "nesterov", "adam", "amsgrad"]

# A weight, and the lambda that it decays with inside the projection.
Decay = tuple[Tensor, float | Tensor]

# An option that may change between steps; a tensor on a GPU stays there, so the host need not wait.
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
    """The rule of one step of SGD, with the meaning that torch gives to each option.

    Args:
        lr: Learning rate.
        momentum, dampening, nesterov: As in ``torch.optim.SGD``.
        weight_decay: lambda, which is added to the gradient as ``lambda * w``.
        decoupled: Whether the weights shrink by ``lr * lambda`` instead (SGDW).
        maximize: Whether to step along the gradient instead of against it.
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
        """The kind of step."""
        return "sgd" if self.momentum == 0 else "nesterov" if self.nesterov else "momentum"


@dataclass(frozen=True)
class AdamRule:
    """The rule of one step of Adam or AdamW, with the meaning that torch gives to each option.

    Args:
        lr: Learning rate.
        betas, eps, amsgrad: As in ``torch.optim.Adam``.
        weight_decay: lambda, which is added to the gradient as ``lambda * w``.
        decoupled: Whether the weights shrink by ``lr * lambda`` instead (AdamW).
        maximize: Whether to step along the gradient instead of against it.
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
        """The kind of step."""
        return "amsgrad" if self.amsgrad else "adam"


Rule = SGDRule | AdamRule


def numbers(rule: Rule) -> list[Number]:
    """Return the numbers of a rule that the compiled kernels read.

    They are the learning rate, the sign of the gradient, coupled and decoupled decay, momentum,
    dampening, both betas, and eps.
    """
    decay = [0.0, rule.weight_decay] if rule.decoupled else [rule.weight_decay, 0.0]
    own: tuple[Number, ...]
    if isinstance(rule, AdamRule):
        own = (0.0, 0.0, *rule.betas, rule.eps)
    else:
        own = (rule.momentum, rule.dampening, 0.0, 0.0, 0.0)
    return [rule.lr, -1.0 if rule.maximize else 1.0, *decay, *own]


def decay_numbers(decays: Iterable[Number]) -> list[Number]:
    """Return the numbers of rules that only center, one per decay inside the projection."""
    return [n for decay in decays for n in (0.0, 1.0, decay, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)]


class Entry(NamedTuple):
    """One parameter of a step.

    Args:
        weight: The parameter.
        fan_in: Fan-in axes, or None if the parameter is not centered.
        state: State of the optimizer under torch's names.
        group: Number of the param group.
        residual: Rounding error of each vector's mean so far, from
            :class:`zeromean.kernels.residuals.Residuals`; None if there is none.
        waits: Whether the parameter has no gradient on this rank, but shares vectors with other
            ranks. It then takes part in their sums and is not stepped.
    """

    weight: Tensor
    fan_in: FanIn | None
    state: dict[str, Any]
    group: int
    residual: Tensor | None = None
    waits: bool = False

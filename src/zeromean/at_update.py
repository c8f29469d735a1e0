"""at="update": the whole change of the weights is projected, w - P(delta)."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeromean.fan_in import FanIn
from zeromean.projection import shift_, vector_means
from zeromean.targets import Targets


class AtUpdate:
    """Puts back, after each step, the mean that every weight vector had before it.

    This is w - P(delta) for any optimizer, whatever delta is made of. Every target is treated
    alike, with a gradient or without: one that did not move differs by exactly 0.

    Args:
        targets: Whose means are kept.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        # A stack, because super().step() fires the hooks again inside. A step that raises leaves
        # its entry behind; the bound, deeper than any such chain, lets those fall off the end.
        self._entered: deque[_Entered] = deque(maxlen=8)
        # A mean is finer than a rounding step of half-precision weights. What rounding loses, one
        # float32 a vector, is carried to the next step that moves the vector.
        self._lost: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        targets = [(weight, fan_in) for _, weight, fan_in in self._targets.of(optimizer)]
        weights = [weight for weight, _ in targets]
        fan_ins = [fan_in for _, fan_in in targets]
        means = vector_means(weights, fan_ins)
        aims = [
            mean + self._lost[weight] if weight in self._lost else mean
            for weight, mean in zip(weights, means, strict=True)
        ]
        self._entered.append(_Entered(weights, fan_ins, means, aims))

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        weights, fan_ins, before, aims = self._entered.pop()
        after = vector_means(weights, fan_ins)
        amounts = [
            torch.where(new == old, 0, aim - new)
            for old, new, aim in zip(before, after, aims, strict=True)
        ]
        shift_(weights, fan_ins, amounts)
        rounded = [n for n, weight in enumerate(weights) if weight.dtype != before[n].dtype]
        left = vector_means([weights[n] for n in rounded], [fan_ins[n] for n in rounded])
        for n, mean in zip(rounded, left, strict=True):
            self._lost[weights[n]] = aims[n] - mean

    def after_load(self, optimizer: Optimizer) -> None:
        self._lost.clear()  # lost by weights that the checkpoint has replaced

    def remove(self) -> None:
        self._entered.clear()
        self._lost.clear()


class _Entered(NamedTuple):
    """What one step found: its weights, their means, and the means that it is to leave."""

    weights: list[Tensor]
    fan_ins: list[FanIn]
    means: list[Tensor]
    aims: list[Tensor]

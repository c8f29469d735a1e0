"""at="update": the whole change of the weights is projected, w - P(delta)."""

from __future__ import annotations

from collections import deque
from typing import Any

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
        self._means: deque[list[tuple[Tensor, FanIn, Tensor]]] = deque(maxlen=8)
        self._residuals: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._means.append(
            [
                (parameter, fan_in, vector_means(parameter, fan_in))
                for _, parameter, fan_in in self._targets.of(optimizer)
            ]
        )

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        for parameter, fan_in, before in self._means.pop():
            moved = before - vector_means(parameter, fan_in)
            if parameter.dtype == before.dtype:
                shift_(parameter, fan_in, moved)
            else:
                self._put_back_rounded(parameter, fan_in, before, moved)

    def _put_back_rounded(
        self, parameter: Tensor, fan_in: FanIn, before: Tensor, moved: Tensor
    ) -> None:
        """Put back a mean finer than a rounding step of half-precision weights.

        What rounding loses, one float32 a vector, is carried to the next step that moves it.
        """
        lost = self._residuals.get(parameter, torch.zeros_like(before))
        still = moved == 0
        shift_(parameter, fan_in, torch.where(still, 0, moved + lost))
        lost_now = before + lost - vector_means(parameter, fan_in)
        self._residuals[parameter] = torch.where(still, lost, lost_now)

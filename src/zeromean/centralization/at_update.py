"""at="update": the whole change of the weights is projected, w - P(delta)."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from zeromean.centralization.targets import Target, Targets
from zeromean.kernels import Entry, prepare_mean_keeper
from zeromean.kernels.backends import MeanKeeper
from zeromean.kernels.residuals import Residuals


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
        self._entered: deque[list[tuple[MeanKeeper, Any]]] = deque(maxlen=8)
        self._residuals = Residuals()
        self._ready: _Ready | None = None

    @torch.no_grad()
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        targets = self._targets.of(optimizer)
        ready = self._ready
        if (
            ready is None
            or targets is not ready.targets
            or not all(keep.is_valid() for keep in ready.keeps)
        ):
            entries = [
                Entry(weight, fan_in, {}, group, self._residuals.of(weight, fan_in))
                for group, weight, fan_in in targets
            ]
            ready = self._ready = _Ready(targets, prepare_mean_keeper(entries))
        self._entered.append([(keep, keep.record()) for keep in ready.keeps])

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        if not self._entered:
            return  # attached while this step was under way: the next one is the first
        for keep, noted in self._entered.pop():
            keep.restore(noted)

    def after_load(self, optimizer: Optimizer) -> None:
        self._forget()  # what was lost by weights that the checkpoint has replaced

    def remove(self) -> None:
        self._entered.clear()
        self._forget()

    def _forget(self) -> None:
        self._residuals.clear()
        self._ready = None


class _Ready(NamedTuple):
    """What keeps the means of these targets."""

    targets: list[Target]
    keeps: list[MeanKeeper]

"""at="update": the whole change of the weights is projected, w - P(delta)."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from zeromean.centralization.centering import CenteredParameter, Centering
from zeromean.kernels import Entry, prepare_mean_keeper
from zeromean.kernels.backends import MeanKeeper
from zeromean.kernels.residuals import Residuals


class AtUpdate:
    """Restores, after each step, the mean that every weight vector had before it.

    This is w - P(delta) for any optimizer, whatever delta contains. Parameters with and without a
    gradient are treated alike: for one that did not change, the difference is exactly 0.

    Args:
        centering: Centering of the optimizer.
    """

    def __init__(self, centering: Centering) -> None:
        self._centering = centering
        # A stack, because super().step() runs the hooks again inside a step. A step that raises
        # leaves its entry on it; maxlen, larger than the depth of any such chain, removes it.
        self._entered: deque[list[tuple[MeanKeeper, Any]]] = deque(maxlen=8)
        self._residuals = Residuals()
        self._ready: _Ready | None = None

    @torch.no_grad()
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Record the means."""
        centered = self._centering.parameters(optimizer)
        ready, records = self._ready, None
        if ready is not None and centered is ready.centered:
            records = ready.record()
        if records is None:
            entries = [
                Entry(weight, fan_in, {}, group, self._residuals.of(weight, fan_in))
                for group, weight, fan_in in centered
            ]
            ready = self._ready = _Ready(centered, prepare_mean_keeper(entries))
            records = ready.record()
        assert records is not None
        self._entered.append(records)

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Restore the means."""
        if not self._entered:
            return  # the hooks were attached during this step, so no means were recorded
        for keeper, record in self._entered.pop():
            keeper.restore(record)

    def after_load(self, optimizer: Optimizer) -> None:
        """Forget the rounding errors of weights that the checkpoint has replaced."""
        self._forget()

    def remove(self) -> None:
        """Forget everything that was recorded."""
        self._entered.clear()
        self._forget()

    def _forget(self) -> None:
        self._residuals.clear()
        self._ready = None


class _Ready(NamedTuple):
    """The mean keepers of these parameters."""

    centered: list[CenteredParameter]
    keepers: list[MeanKeeper]

    def record(self) -> list[tuple[MeanKeeper, Any]] | None:
        """Record all means, or return None if the keepers must be prepared again."""
        records = [(keeper, keeper.record()) for keeper in self.keepers]
        return None if any(record is None for _, record in records) else records

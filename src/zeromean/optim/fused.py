"""The base of drop-in optimizers that make their whole step by the kernels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from zeromean.centralization.fused_step import FusedStep
from zeromean.eager import eager
from zeromean.kernels.step_spec import Rule
from zeromean.optim.centered import Centered


class Fused(Centered):
    """Step all parameters of all groups at once, and center them in the same pass."""

    _fused: FusedStep | None = None

    @staticmethod
    @abstractmethod
    def _rule(group: dict[str, Any]) -> Rule:
        """Return the step rule of a param group."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._fused = None

    @eager
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Function that evaluates the model and returns the loss (default None).

        Returns:
            The loss that the closure returned, else None.

        Raises:
            ZeromeanError: A gradient is sparse; a gradient or a state tensor has another shape than
                its weight; or a CUDA graph is being captured that cannot contain the step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._fused is None:
            self._fused = FusedStep(self.centering, self._at, self._rule)
        self._fused.bind(self).run()
        return loss

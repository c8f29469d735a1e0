"""The base of drop-in optimizers that pass centered gradients to torch's own step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from zeromean.centralization.at_update import AtUpdate
from zeromean.centralization.centering import Centering
from zeromean.eager import eager
from zeromean.kernels import center_
from zeromean.optim.centered import Centered, refuse
from zeromean.sharded import gradient_of


class ViaTorch(Centered):
    """Run torch's step along centered copies of the gradients, or restore the means after it."""

    _place: AtUpdate | None = None
    _copies: Mapping[Tensor, Tensor] = MappingProxyType({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._place = None

    # A compiled step would use the copies of the first step again.
    @eager
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Function that evaluates the model and returns the loss (default None).

        Returns:
            The loss that the closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.centering is None:
            self._step_of_torch()
            return loss
        self.centering.before_step(self)
        if self._at == "gradient":
            self._copies = self._centered_copies(self.centering)
            try:
                self._step_of_torch()
            finally:
                self._copies = MappingProxyType({})
        else:
            if self._place is None:
                self._place = AtUpdate(self.centering)
            self._place.before_step(self, (), {})
            self._step_of_torch()
            self._place.after_step(self)
        return loss

    def _step_of_torch(self) -> None:
        # torch wraps the step of each class that is instantiated, to run hooks; they have run here.
        step: Any = super().step.__func__  # type: ignore[attr-defined]
        (step.__wrapped__ if getattr(step, "hooked", False) else step)(self)

    @torch.no_grad()
    def _centered_copies(self, centering: Centering) -> dict[Tensor, Tensor]:
        """Center copies of all gradients at once, so that ranks exchange one message."""
        decays = [centering.traits.coupled_decay(self, group) for group in self.param_groups]
        found = [
            (target, gradient)
            for target in centering.parameters(self)
            if (gradient := gradient_of(target.parameter, target.fan_in)) is not None
        ]
        copies = [torch.empty_like(gradient) for _, gradient in found]
        center_(
            [gradient for _, gradient in found],
            [target.fan_in for target, _ in found],
            [
                (target.parameter, decays[target.group]) if decays[target.group] else None
                for target, _ in found
            ],
            copies,
        )
        return dict(zip((target.parameter for target, _ in found), copies, strict=True))

    # torch's step calls this to collect the parameters and gradients of its functional form.
    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *state: Any
    ) -> Any:
        refuse(self, "centering leaves no graph", differentiable=group["differentiable"])
        found = super()._init_group(group, params, grads, *state)  # type: ignore[misc]
        grads[:] = [self._copies.get(p, grad) for p, grad in zip(params, grads, strict=True)]
        return found

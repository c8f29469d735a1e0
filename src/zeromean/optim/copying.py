"""Drop-ins that hand centered copies of the gradients to torch's own step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zeromean.at_update import AtUpdate
from zeromean.kernels import center_
from zeromean.optim.centered import Centered
from zeromean.optimizers import decay_inside


class Copying(Centered):
    """Steps as torch does, along centered copies; or puts the means back after the step."""

    _place: AtUpdate | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._place = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Evaluates the model anew and returns the loss (default None).

        Returns:
            What the closure returned, else None.
        """
        if self._targets is not None:
            self._targets.before_step(self)
        if self._at == "gradient" or self._targets is None:
            return super().step(closure)
        if self._place is None:
            self._place = AtUpdate(self._targets)
        self._place.before_step(self, (), {})
        loss = super().step(closure)
        self._place.after_step(self)
        return loss

    # Called by torch's step, after any closure, to gather what its own function is to step.
    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *state: Any
    ) -> Any:
        found = super()._init_group(group, params, grads, *state)  # type: ignore[misc]
        if self._at == "gradient" and self._targets is not None:
            fan_ins = {p: fan_in for _, p, fan_in in self._targets.of(self)}
            places = [n for n, parameter in enumerate(params) if parameter in fan_ins]
            given = [grads[n] for n in places]
            copies = [torch.empty_like(gradient) for gradient in given]
            decay = decay_inside(self, group, "auto")
            decays = [(params[n], decay) if decay else None for n in places]
            center_(given, [fan_ins[params[n]] for n in places], decays, copies)
            for n, copy in zip(places, copies, strict=True):
                grads[n] = copy
        return found

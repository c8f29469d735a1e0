"""The place at="backward": each gradient is centered as soon as it is accumulated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from zeromean import fsdp1
from zeromean.centralization.at_gradient import refuse_graph, refuse_shared, warn_of_momentum
from zeromean.centralization.centering import Centering
from zeromean.centralization.optimizer_traits import OptimizerTraits
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import center_
from zeromean.sharded import gradient_of

# Functions to call before the gradient of a parameter is centered, by optimizer. They may be added
# before the optimizer is centralized.
WATCHERS: WeakKeyDictionary[Optimizer, set[Callable[[Tensor, FanIn], None]]] = WeakKeyDictionary()


class AtBackward:
    """Center gradients in hooks of the parameters, for an optimizer that steps during backward.

    Accumulation and averaging stay correct because P is linear and P P = P: P(P(a) + b) = P(a + b).
    Gradients are centered before they are clipped.

    Args:
        centering: Centering of the optimizer.
        optimizer: The optimizer whose parameters get hooks. No reference to it is kept.
    """

    def __init__(self, centering: Centering, optimizer: Optimizer) -> None:
        self._centering = centering
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._origins: dict[Tensor, fsdp1.Origin] = {}
        self._watchers = WATCHERS.setdefault(optimizer, set())
        self._hook_new(optimizer)
        # Hooks of parameters outlive an optimizer that is deleted, but must not center for another.
        finalize(optimizer, self.remove).atexit = False

    @torch.no_grad()
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Center the gradients that came before their hooks."""
        self._hook_new(optimizer)
        # A gradient may precede its hook if the parameter is new, or if a hook that steps was
        # registered earlier. For all others P P = P. FSDP1's shards have no rows left to center.
        found = [
            (gradient, fan_in)
            for _, parameter, fan_in in self._centering.parameters(optimizer)
            if parameter not in self._origins
            and (gradient := gradient_of(parameter, fan_in)) is not None
        ]
        gradients = [gradient for gradient, _ in found]
        refuse_graph(gradients)
        refuse_shared(optimizer, self._centering)
        center_(gradients, [fan_in for _, fan_in in found])

    def after_step(self, optimizer: Optimizer) -> None:
        """Do nothing."""

    def after_load(self, optimizer: Optimizer) -> None:
        """Warn if the loaded momentum is not zero-mean."""
        warn_of_momentum(optimizer, self._centering)

    def remove(self) -> None:
        """Remove the hooks from the parameters."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _hook_new(self, optimizer: Optimizer) -> None:
        new = []
        centered = self._centering.parameters(optimizer)
        for gone in self._hooks.keys() - {entry.parameter for entry in centered}:
            self._hooks.pop(gone).remove()
        for group, parameter, fan_in in centered:
            refuse_coupled_decay(self._centering.traits, optimizer, optimizer.param_groups[group])
            if parameter not in self._hooks and parameter.requires_grad:
                new.append((parameter, fan_in))
        if new and self._centering.model is not None:
            self._origins = fsdp1.origins(self._centering.model)
        for parameter, fan_in in new:
            origin = self._origins.get(parameter)
            self._hooks[parameter] = (
                _hook_whole_gradient(origin, fan_in)
                if origin
                else parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    partial(self._center_gradient, fan_in=fan_in)
                )
            )

    @torch.no_grad()
    def _center_gradient(self, parameter: Tensor, fan_in: FanIn) -> None:
        if parameter.grad is not None:
            for watch in self._watchers:
                watch(parameter, fan_in)
            refuse_graph([parameter.grad])
            center_([parameter.grad], [fan_in])


def _hook_whole_gradient(origin: fsdp1.Origin, fan_in: FanIn) -> RemovableHandle:
    """Center FSDP1's whole gradient in every backward pass, before it is reduced and sharded."""

    def center(gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.preserve_format)
        center_([gradient], [fan_in])
        return gradient

    def before_forward(unit: nn.Module, args: Any) -> None:
        whole: Tensor = getattr(origin.module, origin.name)  # a view made for this pass
        if whole.requires_grad:
            whole.register_hook(center)  # type: ignore[no-untyped-call]

    return origin.unit.register_forward_pre_hook(before_forward)


def refuse_coupled_decay(
    traits: OptimizerTraits, optimizer: Optimizer, group: dict[str, Any]
) -> None:
    """Raise if the decay is coupled, because the optimizer adds it after the projection."""
    if traits.coupled_decay(optimizer, group):
        raise ZeromeanError(
            f'at="backward" cannot center coupled weight decay, which {type(optimizer).__name__}'
            f" adds later (weight_decay={group['weight_decay']})",
            'Use at="gradient", or an optimizer with decoupled decay such as AdamW',
        )

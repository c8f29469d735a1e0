"""at="backward": each gradient is centered as soon as it is accumulated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from weakref import finalize

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from zeromean.centralization import fsdp1
from zeromean.centralization.at_gradient import refuse_graph, warn_of_momentum
from zeromean.centralization.optimizer_traits import WeightDecay, coupled_decay
from zeromean.centralization.targets import Targets
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import center_
from zeromean.sharded import gradient_of


class AtBackward:
    """Centers gradients in hooks of the parameters, for an optimizer that steps in backward.

    Right under accumulation and averaging, because P is linear: P(P(a) + b) = P(a + b). Gradients
    are centered before they are clipped.

    Args:
        targets: What to center.
        optimizer: Whose parameters get hooks. It is not kept.
        weight_decay: "auto", or how the optimizer's decay acts.
    """

    def __init__(
        self,
        targets: Targets,
        optimizer: Optimizer,
        weight_decay: Literal["auto"] | WeightDecay,
    ) -> None:
        self._targets = targets
        self._weight_decay = weight_decay
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._origins: dict[Tensor, fsdp1.Origin] = {}
        # Is told of each parameter whose gradient is about to be centered, where somebody asks.
        self.watch: Callable[[Tensor, FanIn], None] | None = None
        self._hook_new(optimizer)
        # Hooks of parameters outlive an optimizer that is dropped: the next one is not centralized.
        finalize(optimizer, self.remove).atexit = False

    @torch.no_grad()
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._hook_new(optimizer)
        # A gradient may have come before its hook: the parameter is new, or a hook that steps was
        # registered earlier. P P = P for all others. FSDP1's shards have no rows left to center.
        found = [
            (gradient, fan_in)
            for _, parameter, fan_in in self._targets.of(optimizer)
            if parameter not in self._origins
            and (gradient := gradient_of(parameter, fan_in)) is not None
        ]
        center_([gradient for gradient, _ in found], [fan_in for _, fan_in in found])

    def after_step(self, optimizer: Optimizer) -> None:
        """Nothing is left to do."""

    def after_load(self, optimizer: Optimizer) -> None:
        warn_of_momentum(optimizer, self._targets)

    def remove(self) -> None:
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _hook_new(self, optimizer: Optimizer) -> None:
        new = []
        targets = self._targets.of(optimizer)
        for gone in self._hooks.keys() - {target.parameter for target in targets}:
            self._hooks.pop(gone).remove()
        for group, parameter, fan_in in targets:
            refuse_decay_inside(optimizer, optimizer.param_groups[group], self._weight_decay)
            if parameter not in self._hooks and parameter.requires_grad:
                new.append((parameter, fan_in))
        if new and self._targets.model is not None:
            self._origins = fsdp1.origins(self._targets.model)
        for parameter, fan_in in new:
            origin = self._origins.get(parameter)
            self._hooks[parameter] = (
                origin.hook_gradient(fan_in)
                if origin
                else parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    partial(self._center_gradient, fan_in=fan_in)
                )
            )

    @torch.no_grad()
    def _center_gradient(self, parameter: Tensor, fan_in: FanIn) -> None:
        if parameter.grad is not None:
            if self.watch is not None:
                self.watch(parameter, fan_in)
            refuse_graph([parameter.grad])
            center_([parameter.grad], [fan_in])


def refuse_decay_inside(
    optimizer: Optimizer, group: dict[str, Any], weight_decay: Literal["auto"] | WeightDecay
) -> None:
    """Raise where coupled decay belongs inside the projection: backward comes too early for it."""
    if coupled_decay(optimizer, group, weight_decay):
        raise ZeromeanError(
            f'at="backward" with {type(optimizer).__name__} and coupled'
            f" weight_decay={group['weight_decay']}",
            "no decay, or decoupled decay: the optimizer adds this one after the projection",
            'at="gradient", or an optimizer with decoupled decay such as AdamW',
        )

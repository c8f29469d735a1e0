"""Gradient clipping in an optimizer's step, before anything else that changes gradients."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer


def clip_value(optimizer: Optimizer, network: nn.Module, *, bound: float) -> None:
    """Bound each entry of every gradient in all further steps."""

    def clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        clip_grad_value_(network.parameters(), bound)

    optimizer.register_step_pre_hook(clip)


def clip_norm(optimizer: Optimizer, network: nn.Module, *, bound: float) -> None:
    """Bound the norm of all gradients together in all further steps."""

    def clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        clip_grad_norm_(network.parameters(), bound)

    optimizer.register_step_pre_hook(clip)

"""Gradient clipping, just before whatever else an optimizer's step does with gradients."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer


def clip_value(optimizer: Optimizer, network: nn.Module, *, bound: float) -> None:
    """From now on no entry of a gradient is beyond the bound, either way."""

    def clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        clip_grad_value_(network.parameters(), bound)

    optimizer.register_step_pre_hook(clip)


def clip_norm(optimizer: Optimizer, network: nn.Module, *, bound: float) -> None:
    """From now on all gradients together are no longer than the bound."""

    def clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        clip_grad_norm_(network.parameters(), bound)

    optimizer.register_step_pre_hook(clip)

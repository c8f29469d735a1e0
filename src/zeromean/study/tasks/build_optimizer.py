"""Optimizers and learning-rate schedulers of runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

from zeromean.reparam.nnn import NaturalLinear
from zeromean.study.spec.optimizer import Optimizer
from zeromean.study.spec.records import Candidate
from zeromean.study.spec.schedule import Schedule
from zeromean.study.spec.validation import LARGEST_FLOAT32, SettingError
from zeromean.study.tasks.sgdw import SGDW

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "sgdw": SGDW,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


def build_optimizer(
    spec: Optimizer, network: nn.Module, candidate: Candidate
) -> torch.optim.Optimizer:
    """Make the optimizer of all parameters of a network.

    Raises:
        ZeromeanError: The spec multiplies the rate of the last linear layer, and there is none.
    """
    groups: list[dict[str, Any]] = [{"params": [*network.parameters()]}]
    if spec.head_lr_multiplier != 1:
        head = dict.fromkeys(_last_linear(spec, network).parameters())
        body = [one for one in network.parameters() if one not in head]
        # A single linear layer has no body.
        groups = [{"params": body}] if body else []
        rate = min(spec.head_lr_multiplier * candidate.lr, LARGEST_FLOAT32)
        groups.append({"params": [*head], "lr": rate})
    decay = spec.decay if candidate.weight_decay is None else candidate.weight_decay
    return OPTIMIZERS[spec.name](groups, lr=candidate.lr, weight_decay=decay, **spec.settings)


def _last_linear(spec: Optimizer, network: nn.Module) -> nn.Module:
    linear = [one for one in network.modules() if isinstance(one, nn.Linear | NaturalLinear)]
    if not linear:
        raise SettingError(
            "optimizers",
            f'the optimizer "{spec.label}" has a head_lr_multiplier, but the network has no linear'
            " layer",
            "Remove head_lr_multiplier, or use another model",
        )
    return linear[-1]


def build_scheduler(
    schedule: Schedule, optimizer: torch.optim.Optimizer, steps: int, epochs: int
) -> LRScheduler:
    """Make the scheduler of a run, which takes one step after each optimizer step.

    Args:
        schedule: The schedule.
        optimizer: Optimizer whose learning rates the scheduler sets.
        steps: Number of steps per epoch.
        epochs: Number of epochs of the run.
    """
    if schedule.kind == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps * epochs)
    if schedule.kind == "step":
        assert schedule.every is not None
        return StepLR(optimizer, schedule.every * steps, gamma=0.1)
    if schedule.kind == "multistep":
        return MultiStepLR(optimizer, [steps * one for one in schedule.milestones], gamma=0.1)
    if schedule.kind == "halve":
        assert schedule.steps is not None
        return StepLR(optimizer, schedule.steps, gamma=0.5)
    if schedule.kind == "exponential":
        assert schedule.end is not None
        falls = max(1, math.ceil(epochs / 2) - 1)  # a short trial has none
        return StepLR(optimizer, 2 * steps, gamma=schedule.end ** (1 / falls))
    return ConstantLR(optimizer, factor=1.0)

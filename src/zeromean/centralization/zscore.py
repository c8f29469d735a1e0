"""Standardize gradients per weight vector: the Z-score ablation of the GC paper."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.centralization.at_gradient import Arguments, Closure, wrap_closure
from zeromean.centralization.explain import explain
from zeromean.fan_in import FanIn
from zeromean.projection import split, split_axes

EPSILON = 1e-8


def standardize_gradients(optimizer: Optimizer, network: nn.Module) -> None:
    """Give each weight vector's gradient mean 0 and standard deviation 1 in all further steps.

    Gradients of parameters that another optimizer updates are left alone.

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, section 3.1, which discards it.
    """
    fan_ins = {row.parameter: row.fan_in for row in explain(network).centered if row.fan_in}

    @torch.no_grad()
    def standardize(optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a fused step divides by it
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter in fan_ins:
                    standardize_(parameter.grad, fan_ins[parameter])
                    if scale is not None:
                        parameter.grad.mul_(scale)

    def run(optimizer: Optimizer, closure: Closure) -> Any:
        loss = closure()
        standardize(optimizer)
        return loss

    def hook(
        optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        wrapped = wrap_closure(args, kwargs, partial(run, optimizer))
        if wrapped is None:
            standardize(optimizer)
        return wrapped

    optimizer.register_step_pre_hook(hook)


def standardize_(gradient: Tensor, fan_in: FanIn) -> None:
    """Standardize a gradient in place; a constant one becomes 0."""
    vectors = gradient if fan_in.groups == 1 else split(gradient, fan_in.groups)
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    deviation, mean = torch.std_mean(wide, split_axes(fan_in), correction=0, keepdim=True)
    vectors.copy_((wide - mean) / (deviation + EPSILON))

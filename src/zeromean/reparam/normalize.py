"""The weight from its proxy as one step of autograd, which keeps but two numbers a vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from zeromean.fan_in import FanIn
from zeromean.kernels import normalized
from zeromean.reparam.formulas import Formula, gradients, take_apart, weight_of


def normalize(
    v: Tensor, g: Tensor | float, offset: Tensor | None, formula: Formula, fan_in: FanIn
) -> Tensor:
    """The weight ``g x / n + offset`` of a proxy, in its type, computed in at least float32.

    Args:
        v: The proxy, of any shape.
        g: The gains, one a weight vector, shaped to broadcast to ``v`` split by groups; or one
            number for all.
        offset: What is added to each weight vector, shaped as the gains, or None.
        formula: What x and n are.
        fan_in: The axes of a weight vector.
    """
    if _is_followed(v):
        return weight_of(v, g, offset, take_apart(v, formula, fan_in))
    weight: Tensor = _Normalize.apply(v, g, offset, formula, fan_in)  # type: ignore[no-untyped-call]
    return weight


def _is_followed(v: Tensor) -> bool:
    """Whether a compiler, a transform or a mode has to see the plain operations."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or unpack_dual(v).tangent is not None  # type: ignore[no-untyped-call]
    )


class _Normalize(torch.autograd.Function):
    """Keeps v and g, which are there anyway, and a mean and an n for each vector."""

    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        g: Tensor | float,
        offset: Tensor | None,
        formula: Formula,
        fan_in: FanIn,
    ) -> Tensor:
        if normalized.serves(v, g, offset, fan_in):
            w, mean, norm = normalized.forward(v, g, offset, formula.centers, formula.eps, fan_in)
        else:
            w, mean, norm = weight_of(v, g, offset, take_apart(v, formula, fan_in)), None, None
        ctx.formula, ctx.fan_in = formula, fan_in
        ctx.learned = isinstance(g, Tensor)
        ctx.scale = None if ctx.learned else g
        ctx.save_for_backward(v, mean, norm, g if ctx.learned else None)
        return w

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        formula, fan_in = ctx.formula, ctx.fan_in
        v, mean, norm, gain = ctx.saved_tensors
        g = gain if ctx.learned else ctx.scale
        # A second derivative follows m and n back to v.
        if mean is not None and not torch.is_grad_enabled() and normalized.fits(grad, v):
            grad_v, grad_g = normalized.backward(
                grad, v, g, mean, norm, formula.centers, formula.eps, fan_in, ctx.needs_input_grad
            )
            return grad_v, grad_g, None, None, None
        grad_v, grad_g = gradients(grad, g, take_apart(v, formula, fan_in), formula, fan_in)
        return (
            grad_v.reshape(v.shape).to(v.dtype),
            grad_g.to(gain.dtype) if ctx.learned else None,
            None,
            None,
            None,
        )

"""The weight from its proxy as one step of autograd, which keeps but two numbers a vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from zeromean.fan_in import FanIn
from zeromean.kernels import weight_norm
from zeromean.reparam.formulas import Formula, gradients, take_apart, weight_of


class Normalization:
    """The weight ``g x / n + offset`` of a proxy, in its type, computed in at least float32.

    Args:
        formula: What x and n are.
        fan_in: The axes of a weight vector.
    """

    def __init__(self, formula: Formula, fan_in: FanIn) -> None:
        self.formula = formula
        self.fan_in = fan_in
        self._ready: weight_norm.Normalize | None = None

    def __call__(self, v: Tensor, g: Tensor | float, offset: Tensor | None = None) -> Tensor:
        """The weight.

        Args:
            v: The proxy, of any shape.
            g: The gains, one a weight vector, shaped to broadcast to ``v`` split by groups; or one
                number for all.
            offset: What is added to each weight vector, shaped as the gains (default None).
        """
        if _is_followed(v):
            return weight_of(v, g, offset, take_apart(v, self.formula, self.fan_in))
        weight: Tensor = _Normalize.apply(v, g, offset, self)  # type: ignore[no-untyped-call]
        return weight

    def by_library(
        self, v: Tensor, g: Tensor | float, offset: Tensor | None
    ) -> weight_norm.Normalize | None:
        """The native kernels, ready for such tensors, or None where they do not serve them."""
        ready = self._ready
        if ready is None or not ready.is_valid(v, g, offset):
            centers, eps = self.formula.centers, self.formula.eps
            ready = self._ready = weight_norm.prepare(v, g, offset, centers, eps, self.fan_in)
        return ready


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
        ctx: Any, v: Tensor, g: Tensor | float, offset: Tensor | None, how: Normalization
    ) -> Tensor:
        library, kept = how.by_library(v, g, offset), None
        if library is not None:
            w, kept = library.forward(v, g, offset)
        else:
            w = weight_of(v, g, offset, take_apart(v, how.formula, how.fan_in))
        learned = isinstance(g, Tensor)
        ctx.how = how, library, None if learned else g
        ctx.save_for_backward(v, kept, g if learned else None)
        return w

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        how, library, scale = ctx.how
        v, kept, gain = ctx.saved_tensors
        g = scale if gain is None else gain
        # A second derivative follows m and n back to v.
        if (
            library is not None
            and not torch.is_grad_enabled()
            and library.is_valid_backward(grad, v)
        ):
            grad_v, grad_g = library.backward(grad, v, g, kept, ctx.needs_input_grad)
            return grad_v, grad_g, None, None
        parts = take_apart(v, how.formula, how.fan_in)
        grad_v, grad_g = gradients(grad, g, parts, how.formula, how.fan_in)
        return (
            grad_v.reshape(v.shape).to(v.dtype),
            None if gain is None else grad_g.to(gain.dtype),
            None,
            None,
        )

"""The weight from its proxy as one autograd function that stores two numbers per weight vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from zeromean.errors import warn
from zeromean.fan_in import FanIn
from zeromean.kernels import weight_norm
from zeromean.reparam.formulas import Formula, gradients, take_apart, weight_of


class Normalization:
    """Computes the weight ``g x / n + offset`` of a proxy, in at least float32 inside."""

    def __init__(self, formula: Formula, fan_in: FanIn) -> None:
        self.formula = formula
        self.fan_in = fan_in
        self._kernels: weight_norm.Normalize | None = None
        self._last: Tensor | None = None

    def __call__(self, v: Tensor, g: Tensor | float, offset: Tensor | None = None) -> Tensor:
        """Return the weight of a proxy.

        Gains and offsets, one per weight vector, are shaped to broadcast to ``v`` split by groups.
        """
        if _needs_plain_operations(v):
            return weight_of(v, g, offset, take_apart(v, self.formula, self.fan_in))
        self._warn_of_writes()
        weight: Tensor = _Normalize.apply(v, g, offset, self)  # type: ignore[no-untyped-call]
        if not weight.is_inference():
            # An empty tensor that shares the weight's version counter but none of its memory.
            self._last = weight.detach()
            self._last.data = weight.new_empty(0)
        return weight

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kernels": None, "_last": None}  # a copy shares no memory

    def forget(self) -> None:
        """Forget the last weight, so that writes to it cause no warning."""
        self._last = None

    def prepared_kernels(
        self, v: Tensor, g: Tensor | float, offset: Tensor | None
    ) -> weight_norm.Normalize | None:
        """Return the native kernels prepared for such tensors, or None if they do not apply."""
        kernels = self._kernels
        if kernels is None or not kernels.is_valid(v, g, offset):
            centers, eps = self.formula.centers, self.formula.eps
            kernels = self._kernels = weight_norm.prepare(v, g, offset, centers, eps, self.fan_in)
        return kernels

    def _warn_of_writes(self) -> None:
        if self._last is not None and self._last._version > 0:
            self._last = None
            warn(
                "An in-place write to a re-parametrized weight (by torch.nn.init, for example) had"
                " no effect, because the weight is computed from its proxy. Initialize before"
                " reparametrize, call layer.reset_parameters(), or assign with layer.weight = w."
            )


def _needs_plain_operations(v: Tensor) -> bool:
    """Return whether a compiler, a transform or a mode has to see torch's own operations."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or unpack_dual(v).tangent is not None  # type: ignore[no-untyped-call]
    )


def _is_batched(grad: Tensor) -> bool:
    """Return whether vmap of ``torch.func`` or of ``is_grads_batched`` hides several gradients."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(grad) or functorch.is_legacy_batchedtensor(grad)


class _Normalize(torch.autograd.Function):
    """Stores v and g, which exist anyway, and a mean and a divisor per vector."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, g: Tensor | float, offset: Tensor | None, owner: Normalization
    ) -> Tensor:
        kernels, saved = owner.prepared_kernels(v, g, offset), None
        if kernels is not None:
            w, saved = kernels.forward(v, g, offset)
        else:
            w = weight_of(v, g, offset, take_apart(v, owner.formula, owner.fan_in))
        learned = isinstance(g, Tensor)
        ctx.setup = owner, kernels, None if learned else g
        ctx.save_for_backward(v, saved, g if learned else None)
        return w

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        owner, kernels, scale = ctx.setup
        v, saved, gain = ctx.saved_tensors
        g = scale if gain is None else gain
        # A second derivative needs torch's own operations from v.
        if (
            kernels is not None
            and not torch.is_grad_enabled()
            and not _is_batched(grad)
            and kernels.is_valid_backward(grad, v, g, saved)
        ):
            grad_v, grad_g = kernels.backward(grad, v, g, saved, ctx.needs_input_grad)
            return grad_v, grad_g, None, None
        parts = take_apart(v, owner.formula, owner.fan_in)
        grad_v, grad_g = gradients(grad, g, parts, owner.formula, owner.fan_in)
        return (
            grad_v.reshape(v.shape).to(v.dtype),
            None if gain is None else grad_g.to(gain.dtype),
            None,
            None,
        )

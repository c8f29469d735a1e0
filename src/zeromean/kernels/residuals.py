"""Keep the rounding errors of half-precision weight means, one number per weight vector."""

from __future__ import annotations

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.projection import vectors_here


class Residuals:
    """Keeps, between steps, the rounding error of each weight vector's mean.

    A mean is finer than a rounding step of half-precision weights. The error is added at the next
    step that moves the vector. float32 and float64 weights need none.
    """

    def __init__(self) -> None:
        self._of: dict[Tensor, Tensor] = {}

    def of(self, weight: Tensor, fan_in: FanIn) -> Tensor | None:
        """Return a weight's residual, flat and at least float32; None if it needs none."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        if wide == weight.dtype:
            return None
        found = self._of.get(weight)
        vectors = vectors_here(weight, fan_in)
        if found is None or (found.device, found.numel()) != (weight.device, vectors):
            found = self._of[weight] = torch.zeros(vectors, dtype=wide, device=weight.device)
        return found

    def clear(self) -> None:
        """Forget all residuals, because the weights were replaced."""
        self._of.clear()

"""The formula w = g x / n of the normalizations, and its closed-form gradients.

For each weight vector with proxy v, x is v or v minus its mean, and n is the length of x or its
standard deviation. This is the readable twin of ``kernels/normalized.h``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.projection import split, split_axes


@dataclass(frozen=True)
class Formula:
    """The formula by which a weight vector follows from its proxy.

    Args:
        centers: Whether the proxy's mean is subtracted.
        eps: None if n is the length of x; otherwise n is ``sqrt(var x + eps)`` with the biased
            variance.
    """

    centers: bool
    eps: float | None = None


class Parts(NamedTuple):
    """The parts of a proxy, split by groups: x = v - m, the mean m and the divisor n."""

    x: Tensor
    mean: Tensor
    norm: Tensor


def take_apart(v: Tensor, formula: Formula, fan_in: FanIn) -> Parts:
    """Return x, m and n of each weight vector, in at least float32.

    A vector whose x is no longer than rounding has no direction. Its n is 1, so that its weights
    are 0 and its gradient is that of ``g x``, both finite.
    """
    axes, size = split_axes(fan_in), fan_in.size(v.shape)
    x = _by_group(v, fan_in).to(torch.promote_types(v.dtype, torch.float32))
    if formula.centers:
        mean = x.mean(axes, keepdim=True)
        x = x - mean
        # Once more, to remove the rounding error of a mean that is far larger than x.
        x = x - x.mean(axes, keepdim=True)
    length = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    if not formula.centers:
        mean = torch.zeros_like(length)
    if formula.eps is not None:
        eps = max(formula.eps, torch.finfo(x.dtype).tiny)
        return Parts(x, mean, (length.square() / size + eps).sqrt())
    return Parts(x, mean, torch.where(_is_rounding(length, mean, size), 1.0, length))


def count_undirected(v: Tensor, formula: Formula, fan_in: FanIn) -> int:
    """Return the number of vectors without direction; their first step gives them the length g."""
    if formula.eps is not None:
        return 0
    x, mean, _ = take_apart(v, formula, fan_in)
    length = torch.linalg.vector_norm(x, dim=split_axes(fan_in), keepdim=True)
    return int(_is_rounding(length, mean, fan_in.size(v.shape)).sum())


def _is_rounding(length: Tensor, mean: Tensor, size: int) -> Tensor:
    rounding = 8 * torch.finfo(length.dtype).eps
    return length <= rounding * (length.square() + size * mean.square()).sqrt()


def weight_of(v: Tensor, g: Tensor | float, offset: Tensor | None, parts: Parts) -> Tensor:
    """Return the weight ``g x / n + offset`` in the shape and type of ``v``, differentiably."""
    w = parts.x * (_wide(g, parts) / parts.norm)
    if offset is not None:
        w = w + _wide(offset, parts)
    return w.reshape(v.shape).to(v.dtype)


def gradients(
    grad: Tensor, g: Tensor | float, parts: Parts, formula: Formula, fan_in: FanIn
) -> tuple[Tensor, Tensor]:
    r"""Return the gradients of v and g for a gradient G of the weight, split by groups.

    .. math::
        \frac{\partial L}{\partial v} = \frac{g}{n} \left[ G - (G \cdot u) u
        - \operatorname{mean}(G) 1 \right], \quad \frac{\partial L}{\partial g} = G \cdot u

    with :math:`u = x / n`. The mean is subtracted only if the formula centers. If n is the standard
    deviation, :math:`(G \cdot u) u` is divided by the number of entries.
    """
    x, _, norm = parts
    axes = split_axes(fan_in)
    grad = _by_group(grad, fan_in).to(x.dtype)
    dot = (grad * x).sum(axes, keepdim=True)
    size = 1 if formula.eps is None else math.prod([x.shape[axis] for axis in axes])
    grad_v = grad - dot / (size * norm.square()) * x
    if formula.centers:
        grad_v = grad_v - grad.mean(axes, keepdim=True)
    return _wide(g, parts) / norm * grad_v, dot / norm


def _by_group(x: Tensor, fan_in: FanIn) -> Tensor:
    """Split the first axis of ``x`` if there are groups."""
    return x if fan_in.groups == 1 else split(x, fan_in.groups)


def _wide(values: Tensor | float, parts: Parts) -> Tensor | float:
    """Convert gains or offsets to the type of the computation."""
    return values.to(parts.x.dtype) if isinstance(values, Tensor) else values

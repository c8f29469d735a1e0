"""The operator P = I - e e^T, which subtracts the mean of each weight vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, nonnegative_axes
from zeromean.sharded import local_part, rows_here, share, sum_over_ranks


def center(x: Tensor, axes: int | Sequence[int], groups: int = 1) -> Tensor:
    r"""Subtract the mean of each weight vector: :math:`P x = x - \frac{1}{M} \sum_{i=1}^{M} x_i`.

    P is linear, symmetric and idempotent, and never lengthens a vector. The mean is accumulated in
    at least float32. The result has the type of ``x`` and is differentiable.

    Args:
        x: A dense floating-point or complex tensor with at least one axis.
        axes: Axes that one vector extends over; negative ones count from the end.
        groups: Number of blocks of axis 0, each with its own vectors (default 1).

    Returns:
        A new tensor of the shape and type of ``x``.

    Raises:
        ZeromeanError: ``x`` is not dense and floating-point or complex, or lacks an axis, or its
            first axis does not split into ``groups``.

    Example:
        >>> import torch, zeromean
        >>> zeromean.center(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]), axes=1)
        tensor([[-1.,  0.,  1.],
                [-2., -2.,  4.]])

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, eq. 1 and 2.
    """
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        got = f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
        raise ZeromeanError(
            f"x is a {got}, not a floating-point or complex torch.Tensor", "Convert it by x.float()"
        )
    if x.layout is not torch.strided:
        raise ZeromeanError(f"x has the layout {x.layout}, but must be dense", "Use x.to_dense()")
    fan_in = FanIn(nonnegative_axes(axes, x.ndim), groups)
    if not fan_in.fits(x.shape):
        raise ZeromeanError(
            f"groups={groups} does not divide the first axis of the shape {tuple(x.shape)}",
            "Pass the layer's number of groups",
        )
    whole = x if groups == 1 else split(x, groups)
    dtype = torch.promote_types(x.dtype, torch.float32)
    means = whole.mean(split_axes(fan_in), keepdim=True, dtype=dtype)
    return _saturated(whole - means, x.dtype).reshape(x.shape)


def vector_means(tensors: Sequence[Tensor], fan_ins: Sequence[FanIn]) -> list[Tensor]:
    """Return the mean of each weight vector of many tensors, shaped to broadcast back to each.

    Means have at least float32.

    Raises:
        ZeromeanError: A tensor is sparse.
    """
    for x in tensors:
        if x.layout is not torch.strided:
            raise ZeromeanError(
                f"a sparse gradient of shape {tuple(x.shape)} cannot be centered, because its mean"
                " changes the absent entries too",
                "Leave this layer out by layers=, or build it with sparse=False",
            )
    totals = [_totals(x, fan_in) for x, fan_in in zip(tensors, fan_ins, strict=True)]
    sum_over_ranks(totals, tensors, fan_ins)
    return [
        total / fan_in.size(x.shape)
        for total, x, fan_in in zip(totals, tensors, fan_ins, strict=True)
    ]


def vectors_here(x: Tensor, fan_in: FanIn) -> int:
    """Return the number of weight vectors of ``x`` that this rank has means of.

    Those are the vectors that it holds, whole or in part, and all groups.
    """
    kept = (size for axis, size in enumerate(local_part(x).shape) if axis not in fan_in.axes)
    return fan_in.groups * math.prod(kept)


def shift_(tensors: Sequence[Tensor], fan_ins: Sequence[FanIn], by: Sequence[Tensor]) -> None:
    """Add the numbers in ``by``, one per weight vector, to all entries of the vector, in place.

    float16 saturates, so that centering cannot overflow a gradient that a gradient scaler found
    finite. A vector that held inf or nan still holds nan.
    """
    for x, fan_in, whole in zip(tensors, fan_ins, by, strict=True):
        amount = share(x, whole)
        for part, groups in _parts(x, fan_in):
            if part.dtype == torch.float16:
                part.copy_(_saturated(part + amount[groups], part.dtype))
            else:
                part.add_(amount[groups])


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert ``x`` to ``dtype``; float16 saturates at its largest number."""
    if dtype == torch.float16:
        largest = torch.finfo(dtype).max
        x = x.clamp(-largest, largest)
    return x.to(dtype)


def _totals(x: Tensor, fan_in: FanIn) -> Tensor:
    """Return the sum of the local part of each weight vector, shaped to broadcast back."""
    here = local_part(x)
    axes = split_axes(fan_in)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if not _divided(fan_in):
        return here.sum(axes, keepdim=True, dtype=dtype)
    shape = here.shape if fan_in.groups == 1 else (fan_in.groups, 1, *here.shape[1:])
    totals = here.new_zeros([1 if n in axes else size for n, size in enumerate(shape)], dtype=dtype)
    for part, groups in _parts(x, fan_in):
        totals[groups] += part.sum(axes, keepdim=True, dtype=dtype)
    return totals


def _parts(x: Tensor, fan_in: FanIn) -> Iterator[tuple[Tensor, slice]]:
    """Yield views that together hold every averaged local entry, and the groups of each view."""
    here = local_part(x)
    if not _divided(fan_in):
        yield here, slice(None)
        return
    held = rows_here(x)
    for rows in _pieces(held, x.shape[0], fan_in):
        part = here[rows.start - held.start : rows.stop - held.start]
        if fan_in.groups == 1:
            yield part, slice(None)
        else:
            size = x.shape[0] // fan_in.groups
            groups = slice(rows.start // size, -(-rows.stop // size))
            yield split(part, groups.stop - groups.start), groups


def _pieces(held: range, size: int, fan_in: FanIn) -> Iterator[range]:
    """Cut the local rows, without the padding row, into whole groups and parts of one group.

    A shard may begin and end inside a group; the whole groups between are one piece.
    """
    group = size // fan_in.groups
    cuts = [-(-held.start // group) * group, held.stop // group * group]
    if fan_in.padding_idx is not None:
        cuts = [fan_in.padding_idx, fan_in.padding_idx + 1]
    ends = sorted({held.start, held.stop, *(cut for cut in cuts if cut in held)})
    for start, stop in pairwise(ends):
        if start != fan_in.padding_idx:
            yield range(start, stop)


def _divided(fan_in: FanIn) -> bool:
    """Return whether axis 0 is averaged in several pieces."""
    return fan_in.groups > 1 or fan_in.padding_idx is not None


def split(x: Tensor, groups: int) -> Tensor:
    """Return ``x`` with its first axis as (groups, entries per group)."""
    return x.view(groups, x.shape[0] // groups, *x.shape[1:])


def split_axes(fan_in: FanIn) -> tuple[int, ...]:
    """Return the fan-in axes of a tensor that :func:`split` has split if it has groups."""
    return fan_in.axes if fan_in.groups == 1 else tuple(axis + 1 for axis in fan_in.axes)


def one_each(shape: Sequence[int], fan_in: FanIn) -> list[int]:
    """Return the shape of one number per weight vector, which broadcasts to the split tensor."""
    axes = split_axes(fan_in)
    whole = list(shape)
    if fan_in.groups > 1:
        whole[:1] = [fan_in.groups, shape[0] // fan_in.groups]
    return [1 if axis in axes else size for axis, size in enumerate(whole)]

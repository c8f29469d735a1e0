"""Describe how the weight vectors of a tensor lie in memory."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from zeromean.fan_in import FanIn


class Layout(NamedTuple):
    """The order of a tensor's entries: (o, i, c, k) is at ((o * m1 + i) * inner + c) * m2 + k.

    A weight vector consists of the entries of one (o, c).

    Rows of a matrix are (rows, 1, 1, M), its columns (1, M, columns, 1); a transposed convolution
    with groups is (groups, inputs of a group, outputs of a group, kernel).
    """

    outer: int
    m1: int
    inner: int
    m2: int


@lru_cache(maxsize=4096)
def layout_of(
    shape: tuple[int, ...], strides: tuple[int, ...], fan_in: FanIn | None
) -> Layout | None:
    """Return the layout of a dense tensor's vectors; without fan-in axes the whole is one vector.

    Returns:
        The layout, or None if the tensor has gaps or overlaps, has no such axes, or its vectors lie
        in another order.
    """
    if fan_in is not None and (fan_in.padding_idx is not None or not fan_in.fits(shape)):
        return None
    axes = [
        (stride, size, fan_in is None or axis in fan_in.axes)
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True))
    ]
    if fan_in is not None and fan_in.groups > 1:
        stride, size, _ = axes[0]
        each = size // fan_in.groups
        axes[:1] = [(stride * each, fan_in.groups, False), (stride, each, True)]
    if math.prod(shape) == 0:
        return Layout(0, 1, 1, 1)
    axes = [axis for axis in axes if axis[1] > 1]
    kept = [stride for stride, _, averaged in axes if not averaged]
    if kept != sorted(kept, reverse=True):
        return None  # vectors are numbered as their axes are, in memory too
    axes.sort(reverse=True)
    sizes = [size for _, size, _ in axes]
    if any(stride != math.prod(sizes[n + 1 :]) for n, (stride, _, _) in enumerate(axes)):
        return None
    runs = [
        (averaged, math.prod(size for _, size, _ in run))
        for averaged, run in groupby(axes, key=lambda axis: axis[2])
    ]
    return _as_layout(runs)


def _as_layout(runs: list[tuple[bool, int]]) -> Layout | None:
    """Fit runs of axes, outermost first, to the order kept, averaged, kept, averaged."""
    sizes = [1, 1, 1, 1]
    place = 0
    for averaged, size in runs:
        # Alone, a run of averaged axes is the innermost: contiguous vectors are rows.
        while place < 4 and (place % 2 == 1) != averaged:
            place += 1
        if place == 4:
            return None
        sizes[place] = size
        place += 1
    outer, m1, inner, m2 = sizes
    return Layout(outer, m1, inner, m2) if inner > 1 else Layout(outer, 1, 1, m1 * m2)


def same_layout(a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether tensors of one shape with these strides lie alike in memory."""
    return a == b or all(x == y or size <= 1 for x, y, size in zip(a, b, shape, strict=True))

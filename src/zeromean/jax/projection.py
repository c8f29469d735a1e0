"""The operator in JAX: P = I - e e^T, which takes each weight vector's mean away."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn


def center(x: jax.Array, axes: int | Sequence[int], groups: int = 1) -> jax.Array:
    r"""Subtract from each weight vector its mean: :math:`P x = x - \frac{1}{M} \sum_{i=1}^{M} x_i`.

    P is linear, symmetric and idempotent, and never lengthens a vector. The mean accumulates in at
    least float32; the result has the type of ``x``. Pure: it may be jitted, differentiated, mapped
    and sharded.

    Args:
        x: A floating-point or complex array of any shape.
        axes: The axes that one vector extends over; negative ones count from the end.
        groups: How many blocks axis 0 splits into, each with vectors of its own (default 1).

    Returns:
        A new array of the shape and type of ``x``.

    Raises:
        ZeromeanError: ``x`` is not floating-point or complex, or lacks an axis, or its first axis
            does not split into ``groups``.

    Example:
        >>> import jax.numpy as jnp
        >>> import zeromean.jax
        >>> zeromean.jax.center(jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]), axes=1)
        Array([[-1.,  0.,  1.],
               [-2., -2.,  4.]], dtype=float32)

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, eq. 1 and 2.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ZeromeanError(
            f"a {x.dtype} array", "a floating-point or complex one", "convert it: x.astype(float)"
        )
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    if not all(isinstance(axis, int) for axis in given):
        raise ZeromeanError(f"axes={axes!r}", "an axis or a tuple of axes", "pass axes=(0,)")
    fan_in = FanIn(counted(given, x.ndim), groups)
    if not fan_in.fits(x.shape):
        raise ZeromeanError(
            f"groups={groups} for the shape {x.shape}",
            "a first axis that splits into equal groups",
            "pass the layer's own number of groups",
        )
    return centered(x, fan_in)


def counted(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The axes from 0, where negative ones count from the end."""
    if any(not -ndim <= axis < ndim for axis in axes):
        raise ZeromeanError(
            f"axes {axes} for an array of {ndim} dimensions",
            f"axes from {-ndim} to {ndim - 1}",
            "name axes that the array has",
        )
    return tuple(axis % ndim for axis in axes)


def centered(x: jax.Array, fan_in: FanIn) -> jax.Array:
    """``P x``."""
    return shifted(x, fan_in, -vector_means(x, fan_in))


def vector_means(x: jax.Array, fan_in: FanIn) -> jax.Array:
    """The mean of each weight vector, in at least float32, shaped to broadcast back."""
    parts = _split(x, fan_in)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if fan_in.padding_idx is None:
        return jnp.mean(parts, _axes(fan_in), dtype=dtype, keepdims=True)
    inputs = _inputs(x, fan_in)
    return jnp.mean(parts, _axes(fan_in), dtype=dtype, keepdims=True, where=inputs)


def shifted(x: jax.Array, fan_in: FanIn, by: jax.Array) -> jax.Array:
    """``x`` with each weight vector's number in ``by`` added to all its entries.

    float16 saturates: what was finite stays finite. A vector that held inf or nan still holds nan.
    """
    if fan_in.padding_idx is not None:
        by = jnp.where(_inputs(x, fan_in), by, 0)
    y = _split(x, fan_in) + by
    if x.dtype == jnp.float16:
        largest = jnp.finfo(x.dtype).max  # type: ignore[no-untyped-call]
        y = jnp.clip(y, -largest, largest)
    return y.astype(x.dtype).reshape(x.shape)


def _split(x: jax.Array, fan_in: FanIn) -> jax.Array:
    if fan_in.groups == 1:
        return x
    return x.reshape(fan_in.groups, x.shape[0] // fan_in.groups, *x.shape[1:])


def _axes(fan_in: FanIn) -> tuple[int, ...]:
    return fan_in.axes if fan_in.groups == 1 else tuple(axis + 1 for axis in fan_in.axes)


def _inputs(x: jax.Array, fan_in: FanIn) -> jax.Array:
    """Which indices along axis 0 are inputs: all but the padding."""
    rows: jax.Array = jnp.arange(x.shape[0])
    return jnp.not_equal(rows, fan_in.padding_idx or 0).reshape(-1, *[1] * (x.ndim - 1))

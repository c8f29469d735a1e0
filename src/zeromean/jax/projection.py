"""The operator P = I - e e^T in JAX: subtract the mean of each weight vector."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, nonnegative_axes


def center(x: jax.Array, axes: int | Sequence[int], groups: int = 1) -> jax.Array:
    r"""Subtract the mean of each weight vector: :math:`P x = x - \frac{1}{M} \sum_{i=1}^{M} x_i`.

    P is linear, symmetric and idempotent, and never lengthens a vector. The mean accumulates in at
    least float32. The function is pure: it can be jitted, differentiated and vectorized, and its
    arrays can be sharded. Inside ``shard_map`` a mean is that of the local shard.

    Args:
        x: Floating-point or complex array of any shape.
        axes: Axes that one weight vector extends over; negative ones count from the end.
        groups: Number of blocks that axis 0 splits into, each with its own vectors (default 1).

    Returns:
        A new array with the shape and type of ``x``.

    Raises:
        ZeromeanError: ``x`` is neither floating-point nor complex, lacks one of the axes, or has a
            first axis that does not split into ``groups``.

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
            f"x is an array of {x.dtype}; it must be floating-point or complex",
            "Pass x.astype(float)",
        )
    fan_in = FanIn(nonnegative_axes(axes, x.ndim), groups)
    if not fan_in.fits(x.shape):
        raise ZeromeanError(
            f"The first axis of the shape {x.shape} does not split into groups={groups}",
            "Pass the number of groups of the layer",
        )
    return project(x, fan_in)


def project(x: jax.Array, fan_in: FanIn) -> jax.Array:
    """Return ``P x``."""
    return add_per_vector(x, fan_in, -vector_means(x, fan_in))


def vector_means(x: jax.Array, fan_in: FanIn) -> jax.Array:
    """Return the mean of each weight vector, in at least float32, shaped to broadcast back."""
    blocks = _split_groups(x, fan_in)
    axes = fan_in.axes if fan_in.groups == 1 else tuple(axis + 1 for axis in fan_in.axes)
    where = None if fan_in.padding_idx is None else _is_input(x, fan_in)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.mean(blocks, axes, dtype=dtype, keepdims=True, where=where)


def add_per_vector(x: jax.Array, fan_in: FanIn, term: jax.Array) -> jax.Array:
    """Add one number per weight vector to all its entries.

    float16 saturates: a finite entry stays finite. A vector with inf or nan becomes nan.
    """
    if fan_in.padding_idx is not None:
        term = jnp.where(_is_input(x, fan_in), term, 0)
    y = _split_groups(x, fan_in) + term
    if x.dtype == jnp.float16:
        largest = jnp.finfo(x.dtype).max  # type: ignore[no-untyped-call]
        y = jnp.clip(y, -largest, largest)
    return y.astype(x.dtype).reshape(x.shape)


def _split_groups(x: jax.Array, fan_in: FanIn) -> jax.Array:
    if fan_in.groups == 1:
        return x
    return x.reshape(fan_in.groups, x.shape[0] // fan_in.groups, *x.shape[1:])


def _is_input(x: jax.Array, fan_in: FanIn) -> jax.Array:
    """Return a mask over axis 0 that is False at the padding index."""
    rows: jax.Array = jnp.arange(x.shape[0])
    return jnp.not_equal(rows, fan_in.padding_idx or 0).reshape(-1, *[1] * (x.ndim - 1))

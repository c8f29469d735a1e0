"""The operator P = I - e e^T on the tensors of any Keras backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zeromean.fan_in import FanIn

FLOAT16_MAX = 65504.0


def vector_means(x: Any, fan_in: FanIn) -> Any:
    """Return the mean of each weight vector, in at least float32, shaped to broadcast to ``x``.

    The mean is 0 in the row of ``padding_idx``, which belongs to no vector.
    """
    x = to_float32(x)
    # The mean is a sum and a division, because Keras' mean is always float32 on some backends.
    size = fan_in.size(x.shape)
    if fan_in.groups > 1:  # axis 0 is (groups, inputs): one mean per group
        inputs = x.shape[0] // fan_in.groups
        split = ops.reshape(x, (fan_in.groups, inputs, *x.shape[1:]))
        axes = tuple(axis + 1 for axis in fan_in.axes)
        means = ops.repeat(ops.sum(split, axis=axes, keepdims=True) / size, inputs, axis=1)
        return ops.reshape(means, (-1, *means.shape[2:]))
    if fan_in.padding_idx is None:
        return ops.sum(x, axis=fan_in.axes, keepdims=True) / size
    is_input = ops.arange(x.shape[0]) != fan_in.padding_idx
    is_input = ops.reshape(is_input, (-1,) + (1,) * (len(x.shape) - 1))
    # Selected, not multiplied: 0 times an infinite entry of the padding row would be nan.
    total = ops.sum(ops.where(is_input, x, ops.zeros_like(x)), axis=fan_in.axes, keepdims=True)
    return ops.where(is_input, total / size, ops.zeros_like(total))


def center(x: Any, fan_in: FanIn) -> Any:
    """Return P(x) in the type of ``x``. Sparse gradients of TensorFlow become dense.

    float16 saturates, so that centering a finite tensor never overflows.
    """
    x = ops.convert_to_tensor(x)
    centered = to_float32(x) - vector_means(x, fan_in)
    if keras.backend.standardize_dtype(x.dtype) == "float16":
        centered = ops.clip(centered, -FLOAT16_MAX, FLOAT16_MAX)
    return ops.cast(centered, x.dtype)


def to_float32(x: Any) -> Any:
    """Cast a half-precision tensor to float32; leave float32 and float64 unchanged."""
    return x if is_full_precision(x) else ops.cast(x, "float32")


def is_full_precision(x: Any) -> bool:
    """Return whether a tensor is float32 or float64."""
    return "float32" in str(x.dtype) or "float64" in str(x.dtype)

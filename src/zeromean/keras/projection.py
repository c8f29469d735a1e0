"""The operator P = I - e e^T on the tensors of any Keras backend."""

from __future__ import annotations

from typing import Any

from keras import ops

from zeromean.fan_in import FanIn


def vector_means(x: Any, fan_in: FanIn) -> Any:
    """The mean of every weight vector, in at least float32, in a shape that broadcasts to x's.

    It is 0 for the row of ``padding_idx``, which belongs to no vector.
    """
    x = widened(x)
    size = fan_in.size(
        x.shape
    )  # sum and divide: Keras' own mean is one of float32 on some backends
    if fan_in.groups > 1:  # axis 0 is (groups, inputs): one mean for each group
        inputs = x.shape[0] // fan_in.groups
        split = ops.reshape(x, (fan_in.groups, inputs, *x.shape[1:]))
        axes = tuple(axis + 1 for axis in fan_in.axes)
        means = ops.repeat(ops.sum(split, axis=axes, keepdims=True) / size, inputs, axis=1)
        return ops.reshape(means, (-1, *means.shape[2:]))
    if fan_in.padding_idx is None:
        return ops.sum(x, axis=fan_in.axes, keepdims=True) / size
    is_input = ops.arange(x.shape[0]) != fan_in.padding_idx
    is_input = ops.reshape(ops.cast(is_input, x.dtype), (-1,) + (1,) * (len(x.shape) - 1))
    return ops.sum(x * is_input, axis=fan_in.axes, keepdims=True) / size * is_input


def center(x: Any, fan_in: FanIn) -> Any:
    """P(x), in x's own type. TensorFlow's sparse gradients become dense: P makes them so."""
    x = ops.convert_to_tensor(x)
    return ops.cast(widened(x) - vector_means(x, fan_in), x.dtype)


def widened(x: Any) -> Any:
    """The tensor in float32, or in float64 where it has that."""
    return x if is_wide(x) else ops.cast(x, "float32")


def is_wide(x: Any) -> bool:
    """Whether means can be kept in the tensor's own type."""
    return "float32" in str(x.dtype) or "float64" in str(x.dtype)

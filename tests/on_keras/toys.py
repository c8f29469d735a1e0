"""Small models, data and numpy oracles for the Keras cases."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any

import keras
import numpy as np
import pytest

import zeromean.keras
from zeromean import FanIn

L = keras.layers


def with_slow(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Return names as parameters of a test; all but the quick ones are slow on JAX and TensorFlow.

    The names use the same code that depends on the backend, and torch runs them all.
    """
    if keras.backend.backend() == "torch":
        quick = names = list(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def convnet(**first: Any) -> Any:
    """A convolution, a depthwise and a transposed one, and a dense layer; two have a bias."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(3, 3, activation="tanh", **first),
            L.DepthwiseConv2D(2, use_bias=False),
            L.Conv2DTranspose(2, 2, use_bias=False),
            L.Flatten(),
            L.Dense(3),
        ]
    )


def batch(n: int = 16) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return (
        draw.normal(size=(n, 6, 6, 2)).astype("float32") + 1,
        draw.normal(size=(n, 3)).astype("float32"),
    )


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))) for v in variables]


def gradients(variables: list[Any], seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=tuple(v.shape)).astype("float32") + 0.3 for v in variables]


def fan_ins(model: Any, **options: Any) -> list[FanIn | None]:
    """The fan-in of each trainable variable of the model, or None."""
    centered = {
        id(row.parameter): row.fan_in
        for row in zeromean.keras.explain(model, **options)
        if row.centered
    }
    return [centered.get(id(variable)) for variable in model.trainable_variables]


def mean(x: np.ndarray, fan_in: FanIn) -> np.ndarray:
    return x.astype("float64").mean(fan_in.axes, keepdims=True)


def centered(x: list[np.ndarray], over: list[FanIn | None]) -> list[np.ndarray]:
    return [
        a if f is None else (a - mean(a, f)).astype("float32") for a, f in zip(x, over, strict=True)
    ]


def means(model: Any, **options: Any) -> list[np.ndarray]:
    over = fan_ins(model, **options)
    current = values(model.trainable_variables)
    return [mean(a, f) for a, f in zip(current, over, strict=True) if f is not None]


def tensors(arrays: list[np.ndarray]) -> list[Any]:
    return [keras.ops.convert_to_tensor(a) for a in arrays]


def step(optimizer: Any, model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The trainable weights after one step; on JAX the step is pure and compiled, as in ``fit``."""
    variables = model.trainable_variables
    if keras.backend.backend() != "jax":
        optimizer.apply(tensors(arrays), variables)
        return values(variables)
    if not optimizer.built:
        optimizer.build(variables)
    weights, state = compiled(optimizer)(
        [v.value for v in optimizer.variables], tensors(arrays), [v.value for v in variables]
    )
    for variable, value in zip([*variables, *optimizer.variables], [*weights, *state], strict=True):
        variable.assign(value)
    return values(variables)


@functools.cache
def compiled(optimizer: Any) -> Any:
    import jax

    return jax.jit(optimizer.stateless_apply)


def furthest(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))

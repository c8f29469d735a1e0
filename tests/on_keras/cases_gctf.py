"""The API of gradient-centralization-tf, and its effect in fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from toys import L, batch, furthest, gradients, step, tensors, values, with_slow

from zeromean import ZeromeanError
from zeromean.keras import gctf

Supports = Callable[[str, str, str, str], None]
O = keras.optimizers  # noqa: E741
CLASSES = {
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adam": "Adam",
    "adamax": "Adamax",
    "ftrl": "Ftrl",  # the published one creates an Adamax and raises an error
    "nadam": "Nadam",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
}
# Arguments of the published functions.
DEFAULTS = {
    "adagrad": {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-07},
    "adadelta": {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-07},
    "adam": {
        "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False,
    },
    "adamax": {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07},
    "ftrl": {
        "learning_rate": 0.001, "learning_rate_power": -0.5, "initial_accumulator_value": 0.1,
        "l1_regularization_strength": 0.0, "l2_regularization_strength": 0.0,
        "l2_shrinkage_regularization_strength": 0.0, "beta": 0.0,
    },
    "nadam": {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07},
    "rmsprop": {
        "learning_rate": 0.001, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-07, "centered": False,
    },
    "sgd": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
}  # fmt: skip


def network() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6, 6, 2)), L.Conv2D(3, 3, activation="tanh"), L.Flatten(), L.Dense(3)]
    )


def fit(optimizer: Any) -> Any:
    model = network()
    model.compile(optimizer, loss="mse")
    x, y = batch()
    model.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    return model


def centered(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [
        a - a.mean(tuple(range(a.ndim - 1)), keepdims=True) if a.ndim > 1 else a for a in arrays
    ]


def unit_means(model: Any) -> list[np.ndarray]:
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    return [x.reshape(-1, x.shape[-1]).mean(0, dtype="float64") for x in values(kernels)]


@pytest.mark.parametrize("name", with_slow(CLASSES, ("adam", "sgd")))
def test_each_function_creates_a_centralized_optimizer(name: str) -> None:
    make = getattr(gctf.optimizers, name)
    found = {key: p.default for key, p in inspect.signature(make).parameters.items()}
    assert found == DEFAULTS[name]
    optimizer = make(**DEFAULTS[name])
    assert isinstance(optimizer, getattr(O, CLASSES[name]))
    config = getattr(O, CLASSES[name])(**DEFAULTS[name]).get_config()
    inner = optimizer.get_config()["optimizer"]["config"]
    assert {**inner, "name": ""} == {**config, "name": ""}
    model, plain = network(), network()
    arrays = gradients(model.trainable_variables)
    found = step(optimizer, model, arrays)
    expected = step(getattr(O, CLASSES[name])(**DEFAULTS[name]), plain, centered(arrays))
    assert furthest(found, expected) < 1e-6


@pytest.mark.parametrize("way", ["name", "get_gradients"])
def test_fit_keeps_means_and_changes_weights(way: str, supports: Supports) -> None:
    """The published package has no effect in ``fit``."""
    if way == "name":
        optimizer = gctf.optimizers.sgd(learning_rate=0.05)
    else:
        optimizer = O.SGD(learning_rate=0.05)
        optimizer.get_gradients = gctf.centralized_gradients_for_optimizer(optimizer)
    model, plain = fit(optimizer), fit(O.SGD(learning_rate=0.05))
    assert furthest(unit_means(model), unit_means(network())) < 1e-6
    assert furthest(unit_means(plain), unit_means(network())) > 1e-3
    assert furthest(values(model.variables), values(plain.variables)) > 1e-3
    what = "gctf.optimizers" if way == "name" else "optimizer.get_gradients = gctf..."
    supports("Driver", what, "gradient", "after fit: SGD's means kept, weights unlike plain ones")


def test_gradients_are_clipped_then_centered(supports: Supports) -> None:
    model = network()
    x, y = tensors(list(batch()))
    params = model.trainable_variables

    def loss() -> Any:
        return keras.ops.mean((model(x) - y) ** 2)

    optimizer = O.SGD(1.0, clipvalue=0.01)
    found = values(gctf.get_centralized_gradients(optimizer, loss, params))
    again = values(gctf.centralized_gradients_for_optimizer(O.SGD(1.0))(loss, params))
    twice = values(gctf.centralized_gradients_for_optimizer(optimizer)(loss, params))
    assert furthest(found, twice) == 0
    plain = network()
    plain.compile(O.SGD(1.0), loss="mse")
    plain.fit(*batch(), batch_size=16, epochs=1, verbose=0)
    raw = [a - b for a, b in zip(values(params), values(plain.trainable_variables), strict=True)]

    assert furthest(again, centered(raw)) < 1e-5
    assert furthest(found, centered([a.clip(-0.01, 0.01) for a in raw])) < 1e-5
    supports("Number", "gctf.get_centralized_gradients", "gradient", "numpy's, of the same loss")


def test_loss_as_a_tensor() -> None:
    backend = keras.backend.backend()
    w = keras.Variable(np.array([[1.0, 2.0], [3.0, 5.0]]), dtype="float32", name="w")

    optimizer = O.SGD()

    def gradient(loss: Any) -> Any:
        return gctf.get_centralized_gradients(optimizer, loss, [w])[0]

    def square() -> Any:
        return keras.ops.sum(w * w)

    if backend == "jax":
        with pytest.raises(ZeromeanError, match="JAX"):
            gradient(square())
        return
    if backend == "tensorflow":
        import tensorflow as tf

        with pytest.raises(ZeromeanError, match=r"outside a tf\.function"):
            gradient(square())
        found = tf.function(lambda: gradient(square()))()
    else:
        found = gradient(square())
    np.testing.assert_allclose(values([found])[0], [[-2, -3], [2, 3]])


def test_the_loss_updates_seeds_and_moving_averages() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((20,)), L.BatchNormalization(), L.Dropout(0.5), L.Dense(2)]
    )
    (x,) = tensors([np.ones((8, 20), "float32")])

    def gradient() -> np.ndarray:
        params = model.trainable_variables[-2:]
        found = gctf.get_centralized_gradients(
            O.SGD(), lambda: keras.ops.mean((model(x, training=True) - 1) ** 2), params
        )
        return values(found)[0]

    model.layers[0].beta.assign(np.ones(20))
    assert furthest([gradient()], [gradient()]) > 0
    np.testing.assert_allclose(values([model.layers[0].moving_mean])[0], 1 - 0.99**2, rtol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="independent of the backend")
def test_complex_gradients_are_left_alone() -> None:
    w = keras.Variable(np.array([[1 + 2j], [3 + 4j]]), dtype="complex64", name="w")
    (found,) = gctf.get_centralized_gradients(
        O.SGD(), lambda: keras.ops.sum(keras.ops.abs(w) ** 2), [w]
    )
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), [[2 + 4j], [6 + 8j]], rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX returns a zero gradient")
def test_loss_without_a_variable() -> None:
    v, w = (keras.Variable(np.ones((2, 2)), name=name) for name in "vw")
    with pytest.raises(ZeromeanError, match="does not depend on w"):
        gctf.get_centralized_gradients(O.SGD(), lambda: keras.ops.sum(v * v), [v, w])
    with pytest.raises(ZeromeanError, match="does not depend on w"):
        gctf.get_centralized_gradients(O.SGD(), lambda: keras.ops.ones(()), [w])


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="independent of the backend")
def test_invalid_arguments_raise() -> None:
    parts = O.MultiOptimizer(O.OptimizerMap(O.SGD(0.1)))
    with pytest.raises(ZeromeanError, match="Centralize the optimizers of its map"):
        gctf.centralized_gradients_for_optimizer(parts)
    w = keras.Variable(np.ones((2, 2)), name="w")
    for make in (
        lambda: gctf.centralized_gradients_for_optimizer("sgd"),
        lambda: gctf.get_centralized_gradients("sgd", lambda: keras.ops.sum(w), [w]),
    ):
        with pytest.raises(ZeromeanError, match="optimizer is a str"):
            make()


def test_centralized_optimizer_is_left_unchanged() -> None:
    optimizer = gctf.optimizers.adam()
    gctf.centralized_gradients_for_optimizer(optimizer)
    optimizer.build(network().trainable_variables)
    assert len(optimizer.plan.centered) == 2

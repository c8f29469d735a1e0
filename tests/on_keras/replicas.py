"""Test that two TensorFlow replicas equal one: ``python replicas.py``."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf
from toys import L, batch, furthest, means, values

import zeromean.keras


def train(at: Any, strategy: Any = None) -> Any:
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6, 6, 2)), L.Flatten(), L.Dense(3)])
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
        model.compile(zeromean.keras.centralize(optimizer, model, at=at), loss="mse")
    start = means(model)
    x, y = batch()
    model.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    return values(model.variables), furthest(means(model), start)


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for at in ("gradient", "update"):
        alone, _ = train(at)
        together, moved = train(at, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        assert furthest(alone, together) < 1e-5
        assert (moved < 1e-6) == (at == "update")

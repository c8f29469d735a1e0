"""Keras on torch."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.layers.Input((20,)), keras.layers.Dense(4)])
model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
x, y = np.random.rand(32, 20), np.random.rand(32, 4)
history = model.fit(x, y, epochs=1, verbose=0)
print(history.history["loss"])

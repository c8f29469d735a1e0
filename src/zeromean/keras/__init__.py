"""Gradient Centralization for any Keras 3 optimizer, on every backend.

>>> import keras
>>> import zeromean.keras
>>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
>>> optimizer = zeromean.keras.centralize(keras.optimizers.SGD(0.1), model)
>>> model.compile(optimizer, loss="mse")
"""

from zeromean.keras import fan_in_rules as _fan_in_rules  # noqa: F401  # registers the rules
from zeromean.keras.centralization import centralize
from zeromean.keras.model import explain

__all__ = ["centralize", "explain"]

"""Gradient Centralization for any Keras 3 optimizer, on every backend.

>>> import keras
>>> import zeromean.keras
>>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
>>> optimizer = zeromean.keras.centralize(keras.optimizers.SGD(0.1), model)
>>> model.compile(optimizer, loss="mse")
"""

from zeromean.errors import needs_extra

with needs_extra("keras", "zeromean.keras", "keras"):
    from zeromean.keras import gctf
    from zeromean.keras.centralization import centralize
    from zeromean.keras.model import explain
    from zeromean.keras.monitor_callback import Monitor

__all__ = ["Monitor", "centralize", "explain", "gctf"]


def __dir__() -> list[str]:
    return sorted(__all__)

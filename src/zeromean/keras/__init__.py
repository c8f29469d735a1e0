"""Gradient Centralization for any Keras 3 optimizer, on every backend.

>>> import keras
>>> import zeromean.keras
>>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
>>> optimizer = zeromean.keras.centralize(keras.optimizers.SGD(0.1), model)
>>> model.compile(optimizer, loss="mse")
"""

import importlib
from typing import TYPE_CHECKING, Any

from zeromean.errors import needs_extra

if TYPE_CHECKING:
    from zeromean.keras import gctf as gctf

with needs_extra("keras", "zeromean.keras", "keras"):
    from zeromean.keras import fan_in_rules as _fan_in_rules  # noqa: F401  # registers the rules
    from zeromean.keras.centralization import centralize
    from zeromean.keras.model import explain
    from zeromean.keras.monitor_callback import Monitor

__all__ = ["Monitor", "centralize", "explain", "gctf"]


def __getattr__(name: str) -> Any:
    if name != "gctf":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("zeromean.keras.gctf")


def __dir__() -> list[str]:
    return sorted(__all__)

"""The API of gradient-centralization-tf, for programs written for it; here it works in ``fit``.

These functions have no model. They average all axes but the last of every variable with two or more
axes, which is wrong for some layers; :func:`zeromean.keras.centralize` lists them and takes the
model.

>>> from zeromean.keras import gctf
>>> optimizer = gctf.optimizers.adam(learning_rate=0.01)
"""

from zeromean.keras.gctf import optimizers
from zeromean.keras.gctf.centralized_gradients import (
    centralized_gradients_for_optimizer,
    get_centralized_gradients,
)

__all__ = ["centralized_gradients_for_optimizer", "get_centralized_gradients", "optimizers"]


def __dir__() -> list[str]:
    return sorted(__all__)

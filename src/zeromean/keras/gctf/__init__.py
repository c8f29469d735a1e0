"""The names of gradient-centralization-tf, for programs written for it; here they act in ``fit``.

They know no model: all axes but the last of every variable with two or more are averaged, which is
wrong for some layers (:func:`zeromean.keras.centralize` names them and takes the model).

>>> from zeromean.keras import gctf
>>> optimizer = gctf.optimizers.adam(learning_rate=0.01)
"""

from zeromean.keras.gctf import optimizers
from zeromean.keras.gctf.centralized_gradients import (
    centralized_gradients_for_optimizer,
    get_centralized_gradients,
)

__all__ = ["centralized_gradients_for_optimizer", "get_centralized_gradients", "optimizers"]

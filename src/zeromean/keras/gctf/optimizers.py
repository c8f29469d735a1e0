"""Keras optimizers with centering by shapes alone, under gradient-centralization-tf's names.

Each function takes the arguments of the published function; the defaults are those of Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from zeromean.keras.centralization import attach
from zeromean.keras.planners import ByShape


def _factory(class_name: str, *names: str) -> Callable[..., Any]:
    """Return a function that creates a centralized Keras optimizer from these arguments."""
    plain: Any = getattr(keras.optimizers, class_name)
    parameters = inspect.signature(plain).parameters
    signature = inspect.Signature([parameters[name] for name in names])

    def create(*args: Any, **kwargs: Any) -> Any:
        optimizer = plain(**signature.bind(*args, **kwargs).arguments)
        return attach(optimizer, "gradient", ByShape("all", "vector"))

    create.__name__ = create.__qualname__ = class_name.lower()
    create.__doc__ = f"Create a centralized ``keras.optimizers.{class_name}``."
    create.__signature__ = signature  # type: ignore[attr-defined]
    return create


adagrad = _factory("Adagrad", "learning_rate", "initial_accumulator_value", "epsilon")
adadelta = _factory("Adadelta", "learning_rate", "rho", "epsilon")
adam = _factory("Adam", "learning_rate", "beta_1", "beta_2", "epsilon", "amsgrad")
adamax = _factory("Adamax", "learning_rate", "beta_1", "beta_2", "epsilon")
ftrl = _factory(
    "Ftrl",
    "learning_rate",
    "learning_rate_power",
    "initial_accumulator_value",
    "l1_regularization_strength",
    "l2_regularization_strength",
    "l2_shrinkage_regularization_strength",
    "beta",
)
nadam = _factory("Nadam", "learning_rate", "beta_1", "beta_2", "epsilon")
# centered= is RMSprop's own option: it divides by the variance instead of the mean square.
rmsprop = _factory("RMSprop", "learning_rate", "rho", "momentum", "epsilon", "centered")
sgd = _factory("SGD", "learning_rate", "momentum", "nesterov")

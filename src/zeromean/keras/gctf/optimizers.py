"""Keras' optimizers, centralized by shapes alone, under gradient-centralization-tf's names.

Arguments and defaults are those of that package; they mean what they mean in Keras.
"""

from __future__ import annotations

from typing import Any

import keras

from zeromean.keras.attach import attach
from zeromean.keras.targets import ByShape


def _centralized(optimizer: Any) -> Any:
    return attach(optimizer, "gradient", ByShape("all", "vector"))


def adagrad(
    learning_rate: Any = 0.001, initial_accumulator_value: float = 0.1, epsilon: float = 1e-07
) -> Any:
    """``keras.optimizers.Adagrad``, centralized."""
    return _centralized(
        keras.optimizers.Adagrad(
            learning_rate=learning_rate,
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
        )
    )


def adadelta(learning_rate: Any = 0.001, rho: float = 0.95, epsilon: float = 1e-07) -> Any:
    """``keras.optimizers.Adadelta``, centralized."""
    return _centralized(
        keras.optimizers.Adadelta(learning_rate=learning_rate, rho=rho, epsilon=epsilon)
    )


def adam(
    learning_rate: Any = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
) -> Any:
    """``keras.optimizers.Adam``, centralized."""
    return _centralized(
        keras.optimizers.Adam(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
        )
    )


def adamax(
    learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-07
) -> Any:
    """``keras.optimizers.Adamax``, centralized."""
    return _centralized(
        keras.optimizers.Adamax(
            learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon
        )
    )


def ftrl(
    learning_rate: Any = 0.001,
    learning_rate_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    l1_regularization_strength: float = 0.0,
    l2_regularization_strength: float = 0.0,
    l2_shrinkage_regularization_strength: float = 0.0,
    beta: float = 0.0,
) -> Any:
    """``keras.optimizers.Ftrl``, centralized."""
    return _centralized(
        keras.optimizers.Ftrl(
            learning_rate=learning_rate,
            learning_rate_power=learning_rate_power,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength,
            beta=beta,
        )
    )


def nadam(
    learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-07
) -> Any:
    """``keras.optimizers.Nadam``, centralized."""
    return _centralized(
        keras.optimizers.Nadam(
            learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon
        )
    )


def rmsprop(
    learning_rate: Any = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-07,
    centered: bool = False,
) -> Any:
    """``keras.optimizers.RMSprop``, centralized.

    ``centered`` is RMSprop's own: the variance of the gradient in place of its mean square.
    """
    return _centralized(
        keras.optimizers.RMSprop(
            learning_rate=learning_rate,
            rho=rho,
            momentum=momentum,
            epsilon=epsilon,
            centered=centered,
        )
    )


def sgd(learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False) -> Any:
    """``keras.optimizers.SGD``, centralized."""
    return _centralized(
        keras.optimizers.SGD(learning_rate=learning_rate, momentum=momentum, nesterov=nesterov)
    )

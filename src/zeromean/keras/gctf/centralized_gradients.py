"""The functions of gradient-centralization-tf, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from zeromean.errors import ZeromeanError
from zeromean.keras.centralization import attach, check_is_optimizer, refuse_optimizer
from zeromean.keras.centralized_optimizer import Centralized
from zeromean.keras.model import owners_by_shape, unwrap
from zeromean.keras.planners import ByShape
from zeromean.keras.projection import center
from zeromean.plan import make_plan

Gradients = Callable[[Any, Sequence[Any]], list[Any]]


def centralized_gradients_for_optimizer(optimizer: Any) -> Gradients:
    """Centralize an optimizer and return a function that computes its centralized gradients.

    Programs for the published package assign the result to ``optimizer.get_gradients``. Keras no
    longer calls that method, so this function centralizes the optimizer itself, for ``fit``.

    Args:
        optimizer: Any Keras optimizer. One that is already centralized is left unchanged.

    Returns:
        :func:`get_centralized_gradients` as a function of ``loss`` and ``params``.

    Raises:
        ZeromeanError: ``optimizer`` is not a Keras optimizer, or only dispatches to others.

    Example:
        >>> import keras
        >>> from zeromean.keras import gctf
        >>> optimizer = keras.optimizers.Adam(learning_rate=0.1)
        >>> optimizer.get_gradients = gctf.centralized_gradients_for_optimizer(optimizer)
    """
    if not isinstance(unwrap(optimizer), Centralized):
        refuse_optimizer(optimizer, "gradient")
        attach(optimizer, "gradient", ByShape("all", "vector"))
    return lambda loss, params: get_centralized_gradients(optimizer, loss, params)


def get_centralized_gradients(optimizer: Any, loss: Any, params: Sequence[Any]) -> list[Any]:
    """Compute the gradients of a loss, clip them as the optimizer does, then centralize them.

    The published package centralizes first and clips afterwards.

    Args:
        optimizer: Keras optimizer with the clipping options (``clipnorm``, ``clipvalue`` or
            ``global_clipnorm``).
        loss: Function without arguments that computes the loss from ``params``; or, on torch and
            inside a ``tf.function``, the loss itself as a scalar tensor.
        params: Variables (``model.trainable_variables``).

    Returns:
        One gradient per variable, for ``optimizer.apply(gradients, params)``.

    Raises:
        ZeromeanError: The backend cannot differentiate a tensor, the loss does not depend on a
            variable (on JAX, such a gradient is 0), or ``optimizer`` is not a Keras optimizer.

    Example:
        >>> import keras
        >>> from zeromean.keras import gctf
        >>> w = keras.Variable([[1.0, 2.0], [3.0, 5.0]], name="w")
        >>> def loss():
        ...     return keras.ops.sum(w * w)
        >>> (g,) = gctf.get_centralized_gradients(keras.optimizers.SGD(), loss, [w])
        >>> keras.ops.convert_to_numpy(g).tolist()
        [[-2.0, -3.0], [2.0, 3.0]]
    """
    check_is_optimizer(optimizer)
    gradients = _GRADIENTS[keras.backend.backend()](loss, params)
    for gradient, variable in zip(gradients, params, strict=True):
        if gradient is None:
            raise ZeromeanError(
                f"The loss does not depend on {variable.name}", "Remove the variable from params"
            )
    gradients = unwrap(optimizer)._clip_gradients(gradients)
    fan_ins = {id(row.parameter): row.fan_in for row in make_plan(owners_by_shape(params)).centered}
    return [
        gradient if (fan_in := fan_ins.get(id(variable))) is None else center(gradient, fan_in)
        for gradient, variable in zip(gradients, params, strict=True)
    ]


def _by_tensorflow(loss: Any, params: Sequence[Any]) -> list[Any]:
    import tensorflow as tf

    if callable(loss):
        with tf.GradientTape() as tape:
            value = loss()
        return list(tape.gradient(value, list(params)))
    if tf.executing_eagerly():
        raise _needs_function("TensorFlow outside a tf.function")
    return list(tf.gradients(loss, [getattr(variable, "value", variable) for variable in params]))


def _by_torch(loss: Any, params: Sequence[Any]) -> list[Any]:
    import torch

    value = loss() if callable(loss) else loss
    if not value.requires_grad:  # torch.autograd.grad would raise
        return [None for _ in params]
    return list(torch.autograd.grad(value, [v.value for v in params], allow_unused=True))


def _by_jax(loss: Any, params: Sequence[Any]) -> list[Any]:
    if not callable(loss):
        raise _needs_function("JAX")
    import jax

    updated: list[Any] = []

    def loss_of(values: list[Any]) -> Any:
        with _RecordingScope(list(zip(params, values, strict=True))) as scope:
            value = loss()
        updated.extend(scope.updated.values())
        return value, [scope.get_current_value(variable) for variable in updated]

    values = [variable.value for variable in params]
    gradients, state = jax.grad(loss_of, has_aux=True)(values)
    for variable, value in zip(updated, state, strict=True):
        variable.assign(value)
    return list(gradients)


class _RecordingScope(keras.StatelessScope):  # type: ignore[misc]  # Keras is not typed
    """Collect the variables that a loss updates, such as seeds and moving averages."""

    def __init__(self, state_mapping: list[tuple[Any, Any]]) -> None:
        super().__init__(state_mapping)
        self.updated: dict[int, Any] = {}

    def add_update(self, update: tuple[Any, Any]) -> None:
        super().add_update(update)
        self.updated[id(update[0])] = update[0]


def _needs_function(where: str) -> ZeromeanError:
    return ZeromeanError(
        f"The loss is a tensor, which {where} cannot differentiate",
        "Pass a function that computes it: lambda: loss_fn(y, model(x))",
    )


_GRADIENTS = {"tensorflow": _by_tensorflow, "torch": _by_torch, "jax": _by_jax}

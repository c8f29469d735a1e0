"""gradient-centralization-tf's functions, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from zeromean.errors import ZeromeanError
from zeromean.keras.attach import attach, check_is_optimizer, refuse_optimizer
from zeromean.keras.model import owners_by_shape, unwrap
from zeromean.keras.optimizer import Centralized
from zeromean.keras.projection import center
from zeromean.keras.targets import ByShape
from zeromean.plan import make_plan

Gradients = Callable[[Any, Sequence[Any]], list[Any]]


def centralized_gradients_for_optimizer(optimizer: Any) -> Gradients:
    """Centralize an optimizer, and give the function that computes its gradients.

    In the program that this is for, ``optimizer.get_gradients`` is set to the result. Keras has not
    called that for years, so the optimizer itself is centralized: its next ``fit`` is.

    Args:
        optimizer: Any Keras optimizer. One that is centralized already is left as it is.

    Returns:
        :func:`get_centralized_gradients` as a function of ``loss`` and ``params``.

    Raises:
        ZeromeanError: It is no Keras optimizer, or one that only dispatches to others.

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
    """The gradients of a loss, clipped as the optimizer clips, then centralized by their shapes.

    Args:
        optimizer: The Keras optimizer whose ``clipnorm``, ``clipvalue`` or ``global_clipnorm`` is
            meant. The published package centralizes first and clips then.
        loss: A function of no arguments that computes the loss from ``params``; or the loss itself,
            a scalar tensor, on torch and inside a ``tf.function``.
        params: The variables (``model.trainable_variables``).

    Returns:
        One gradient for each variable, for ``optimizer.apply(gradients, params)``.

    Raises:
        ZeromeanError: The backend cannot derive a tensor, the loss leaves a variable out, or
            ``optimizer`` is none.

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
                f"a loss that does not depend on {variable.name}",
                "variables that the loss is made from",
                "leave the variable out of params",
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
    if not value.requires_grad:  # torch would raise of its own
        return [None for _ in params]
    return list(torch.autograd.grad(value, [v.value for v in params], allow_unused=True))


def _by_jax(loss: Any, params: Sequence[Any]) -> list[Any]:
    if not callable(loss):
        raise _needs_function("JAX")
    import jax

    def of(values: list[Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(params, values, strict=True))):
            return loss()

    return list(jax.grad(of)([variable.value for variable in params]))


def _needs_function(where: str) -> ZeromeanError:
    return ZeromeanError(
        f"a loss that is computed already, with {where}",
        "a function of no arguments that computes it",
        "pass lambda: loss_fn(y, model(x))",
    )


_GRADIENTS = {"tensorflow": _by_tensorflow, "torch": _by_torch, "jax": _by_jax}

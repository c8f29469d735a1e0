"""Centralize any Keras optimizer."""

from __future__ import annotations

from typing import Any

import keras

from zeromean.class_lookup import is_a, nearest
from zeromean.errors import ZeromeanError, warn
from zeromean.gc_options import GCOptions
from zeromean.keras.centralized_optimizer import Centralized, install
from zeromean.keras.model import unwrap
from zeromean.keras.planners import At, ByModel, ByShape
from zeromean.plan import Layers, Scope, check_option, check_without_model

# Optimizers that recompute the weights from their state in each step, and the reason to refuse.
_REFUSES_UPDATE: dict[type | str, str] = {
    "keras.src.optimizers.schedule_free_adamw.ScheduleFreeAdamW": "the iterate z in its state keeps"
    " its own mean",
    "keras.src.optimizers.ftrl.Ftrl": "it recomputes the weights from sums of gradients",
}


def centralize(
    optimizer: Any,
    model: Any = None,
    *,
    at: At = "gradient",
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
) -> Any:
    r"""Add Gradient Centralization to a Keras optimizer, in place.

    With :math:`P g = g - \operatorname{mean}(g)` over each weight vector's fan-in axes,

    - ``at="gradient"`` lets the optimizer see :math:`P(g)`. Keras' weight decay is decoupled and
      stays outside; an L2 ``kernel_regularizer`` is part of the gradient, hence inside.
    - ``at="update"`` projects the whole change of the weights, decay included:
      :math:`w \leftarrow w - P(\Delta)`. Each weight vector keeps its mean.

    Gradients are unscaled, accumulated and clipped (``clipnorm``, ``clipvalue``,
    ``global_clipnorm``) first, as the authors do. Constraints and averaged weights come after the
    step and are not projected.

    The optimizer stays the same object; its class gets one more base class. It is saved with its
    plan, and can be loaded wherever ``zeromean.keras`` is imported.

    Args:
        optimizer: Any ``keras.optimizers.Optimizer``; in a ``LossScaleOptimizer``, the optimizer
            inside is centralized.
        model: The model or layer whose layers determine the fan-in axes; it need not be built yet.
            Without a model, all axes but the last of every variable with two or more are averaged.
            That is wrong for transposed, depthwise and separable convolutions, attention,
            embeddings and two-dimensional biases (GRU's, attention's); a warning says so.
        at: "gradient" (default), or "update", which the authors advise for adaptive methods.
        layers: "all" (default); "conv", every convolution; "linear", every other variable with
            fan-in axes; or a predicate of a layer's path and the layer. Without a model, "conv"
            means four or more dimensions.
        embeddings: Whether to center embeddings too, over their tokens; with ``mask_zero``, without
            token 0 (default False).
        scope: "vector" (default), or "tensor", an ablation that subtracts the mean of the whole
            tensor.

    Returns:
        The optimizer, for ``compile`` or ``apply``.

    Raises:
        ZeromeanError: An option has an unknown value or no effect, or the optimizer is already
            centralized, only dispatches to others, or does not support ``at``.

    Example:
        >>> import keras, numpy as np, zeromean.keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> optimizer = zeromean.keras.centralize(keras.optimizers.SGD(0.1), model)
        >>> model.compile(optimizer, loss="mse")
        >>> before = model.layers[0].get_weights()[0].mean(0)
        >>> history = model.fit(np.eye(3), np.ones((3, 2)), verbose=0)
        >>> bool(np.allclose(model.layers[0].get_weights()[0].mean(0), before))
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Algorithms 1 and 2.
    """
    check_option("at", at, ("gradient", "update"))
    GCOptions(at, layers, embeddings, scope)  # raises if a value is unknown
    refuse_optimizer(optimizer, at)
    if model is not None and not isinstance(model, keras.layers.Layer):
        raise ZeromeanError(
            f"model is a {type(model).__name__}; it must be a Keras model or layer, or None for the"
            " rule by shapes alone",
            "Call centralize(optimizer, model)",
        )
    if model is None:
        check_without_model(layers, embeddings)
        warn(
            "without a model only shapes are known: transposed, depthwise and separable"
            " convolutions, attention, embeddings and biases of two dimensions are centered over"
            " the wrong axes; pass the model"
        )
        return attach(optimizer, at, ByShape(layers, scope))
    return attach(optimizer, at, ByModel(model, layers, embeddings, scope))


def attach(optimizer: Any, at: At, planner: ByModel | ByShape) -> Any:
    """Centralize an optimizer with this planner."""
    inner = unwrap(optimizer)
    if inner.built and int(inner.iterations) > 0:
        warn(
            f"{type(inner).__name__} has already made steps: the mean of its momentum affects the"
            " weights for a while, and a train step that was traced before does not center; compile"
            " the model again, preferably with a new optimizer"
        )
    install(inner, at, planner)
    return optimizer


def check_is_optimizer(optimizer: Any) -> None:
    """Raise unless this is a Keras optimizer."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ZeromeanError(
            f"optimizer is a {type(optimizer).__name__}; it must be a keras.optimizers.Optimizer",
            "Pass a Keras optimizer; use zeromean.centralize for torch and zeromean.jax for optax",
        )


def refuse_optimizer(optimizer: Any, at: At) -> None:
    """Raise if this optimizer cannot be centralized at this place."""
    check_is_optimizer(optimizer)
    inner = unwrap(optimizer)
    if isinstance(inner, Centralized):
        raise ZeromeanError(
            f"This {type(inner).__name__} is already centralized", "Create a new optimizer"
        )
    if is_a(type(inner), "keras.src.optimizers.multi_optimizer.MultiOptimizer"):
        raise ZeromeanError(
            f"A {type(inner).__name__} passes each variable to another optimizer",
            "Centralize the optimizers of its map",
        )
    reason = nearest(_REFUSES_UPDATE, type(inner))
    if at == "update" and reason is not None:
        raise ZeromeanError(
            f'{type(inner).__name__} does not support at="update": {reason}', 'Use at="gradient"'
        )

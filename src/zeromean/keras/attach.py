"""One line that centralizes any Keras optimizer."""

from __future__ import annotations

from typing import Any

import keras

from zeromean.class_lookup import nearest
from zeromean.errors import ZeromeanError, warn
from zeromean.keras.model import unwrap
from zeromean.keras.optimizer import Centralized, install
from zeromean.keras.targets import At, ByModel, ByShape
from zeromean.plan import Layers, Scope, check_option, check_without_model, make_plan

# Optimizers whose weights are made anew, in each step, from what their state keeps.
_REFUSES_UPDATE: dict[type | str, str] = {
    "keras.src.optimizers.schedule_free_adamw.ScheduleFreeAdamW": "its z, in its state, goes on "
    "with its own mean",
    "keras.src.optimizers.ftrl.Ftrl": "its weights are made anew from its sums of gradients",
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
    r"""Centralize a Keras optimizer: from now on each step is zero-mean over every fan-in.

    With :math:`P g = g - \operatorname{mean}(g)` over each weight vector's fan-in axes,

    - ``at="gradient"`` lets the optimizer see :math:`P(g)`. Keras' weight decay is decoupled and
      stays outside; an L2 ``kernel_regularizer`` is part of the gradient and so inside.
    - ``at="update"`` projects the whole change of the weights, decay included:
      :math:`w \leftarrow w - P(\Delta)`. Each weight vector keeps the mean it had before the step.

    Gradients are clipped (``clipnorm``, ``clipvalue``, ``global_clipnorm``), unscaled and
    accumulated first, as the authors do. What comes after the step (constraints, averaged weights)
    is no part of it.

    The optimizer is the same object: its class gets one more ancestor, so it is saved and loaded
    with its plan wherever ``zeromean.keras`` is imported.

    Args:
        optimizer: Any ``keras.optimizers.Optimizer``; of a ``LossScaleOptimizer`` the one inside.
        model: The model (or layer) whose layers tell the fan-in axes. It need not be built yet.
            Without it all axes but the last of every variable with two or more are averaged, which
            is wrong for transposed, depthwise and separable convolutions, attention, embeddings
            and biases of two dimensions (GRU's, attention's); a warning says so.
        at: "gradient" (default) or "update", the authors' advice for adaptive methods.
        layers: "all" (default); "conv", every convolution; "linear", everything else that has
            fan-in axes; or a predicate of a layer's path and the layer. Without a model "conv"
            means four or more dimensions.
        embeddings: Whether embeddings are centered too, over their tokens, without token 0 where
            ``mask_zero`` (default False).
        scope: "vector" (default), or "tensor", an ablation that takes the mean of the whole tensor.

    Returns:
        The optimizer, to compile or to apply.

    Raises:
        ZeromeanError: An option has an unknown value or no effect, or the optimizer is centralized
            already, only dispatches to others, or cannot be right at this place.

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
    make_plan(
        (), layers=layers, embeddings=embeddings, scope=scope
    )  # unknown values now, not later
    refuse_optimizer(optimizer, at)
    if model is not None and not isinstance(model, keras.layers.Layer):
        raise ZeromeanError(
            f"{type(model).__name__} as the model",
            "a Keras model or layer, or None to go by shapes alone",
            "call centralize(optimizer, model)",
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
    """Centralize without a word on how much is known of the layers."""
    inner = unwrap(optimizer)
    if inner.built and int(inner.iterations) > 0:
        warn(
            f"{type(inner).__name__} has made steps already: its momentum is not zero-mean and"
            " leaks for a while, and a train step that was traced before stays as it was; compile"
            " the model again, best with a new optimizer"
        )
    install(inner, at, planner)
    return optimizer


def check_is_optimizer(optimizer: Any) -> None:
    """Raise where something else came."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ZeromeanError(
            f"{type(optimizer).__name__} as the optimizer",
            "a keras.optimizers.Optimizer",
            "pass a Keras optimizer; for those of torch there is zeromean.centralize, for optax"
            " zeromean.jax",
        )


def refuse_optimizer(optimizer: Any, at: At) -> None:
    """Raise where this optimizer cannot be centralized at this place."""
    check_is_optimizer(optimizer)
    inner = unwrap(optimizer)
    if isinstance(inner, Centralized):
        raise ZeromeanError(
            f"{type(inner).__name__}, which is centralized already",
            "an optimizer that is not",
            "make a new optimizer",
        )
    if isinstance(inner, keras.optimizers.MultiOptimizer):
        raise ZeromeanError(
            f"{type(inner).__name__}, which hands each variable to another optimizer",
            "an optimizer that steps itself",
            "centralize the optimizers of its map",
        )
    reason = nearest(_REFUSES_UPDATE, type(inner))
    if at == "update" and reason is not None:
        kind = type(inner).__name__
        raise ZeromeanError(f'at="update" with {kind}', f"another place: {reason}", 'at="gradient"')

"""A Keras model's plan: which layer owns each variable, and what the layer's rule says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import keras

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, describe, look_up
from zeromean.keras.fan_in import own_variables
from zeromean.plan import Layers, Owner, Plan, Scope, make_plan


class HasPlan(Protocol):
    """What has been planned already: a centralized optimizer."""

    @property
    def plan(self) -> Plan:
        """The plan that is in force."""


def explain(
    subject: Any,
    *,
    layers: Layers | None = None,
    embeddings: bool | None = None,
    scope: Scope | None = None,
) -> Plan:
    """Tell for every trainable variable whether it is centered, over which axes, and why.

    Args:
        subject: A Keras model or layer that is built, to see what
            :func:`zeromean.keras.centralize` would do with it; or a centralized optimizer that is
            built, to see what it does.
        layers, embeddings, scope: As in :func:`zeromean.keras.centralize`, and with its defaults;
            an optimizer has its own.

    Returns:
        A :class:`zeromean.Plan`: a sequence of rows that prints as a table.

    Raises:
        ZeromeanError: ``subject`` is neither, is not built, or an optimizer came with options.

    Example:
        >>> import keras, zeromean.keras
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((8, 8, 3)),
        ...         keras.layers.DepthwiseConv2D(3, name="each"),
        ...         keras.layers.Flatten(),
        ...         keras.layers.Dense(2, name="head"),
        ...     ],
        ...     name="net",
        ... )
        >>> print(zeromean.keras.explain(model))
        parameter        shape    role    axes  centered  reason
        net/each/kernel  3x3x3x1  conv    0,1   yes       DepthwiseConv2D, fan-in 9
        net/each/bias    3        -       -     no        a bias has no fan-in
        net/head/kernel  108x2    linear  0     yes       Dense, fan-in 108
        net/head/bias    2        -       -     no        a bias has no fan-in
        centered: 2 of 4 parameters, 243 of 248 entries
    """
    given = {"layers": layers, "embeddings": embeddings, "scope": scope}
    options: Any = {name: value for name, value in given.items() if value is not None}
    if isinstance(subject, keras.layers.Layer):
        return plan_of(subject, **options)
    plan = getattr(unwrap(subject), "plan", None)
    if not isinstance(plan, Plan):
        raise ZeromeanError(
            f"{type(subject).__name__} to explain",
            "a Keras model, or the optimizer that centralize returned",
            "call explain(model) or explain(optimizer)",
        )
    if options:
        raise ZeromeanError(
            f"{', '.join(options)} together with an optimizer",
            "an optimizer alone, which has its own options",
            "leave the options out, or pass the model",
        )
    return plan


def unwrap(optimizer: Any) -> Any:
    """The optimizer that makes the step: what a LossScaleOptimizer holds, else itself."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def plan_of(
    model: Any, layers: Layers = "all", embeddings: bool = False, scope: Scope = "vector"
) -> Plan:
    """The plan of a model that is built; what is frozen is left alone.

    Raises:
        ZeromeanError: The model has no variables yet.
    """
    # A layer that the model never calls stays without variables.
    if not model.built or (not model.variables and not _all_built(model)):
        raise ZeromeanError(
            f"{type(model).__name__} {model.name!r}, which is not built yet",
            "a model whose variables have their shapes",
            "call it on a batch first, or start it with keras.Input",
        )
    plan = make_plan(owners(model), layers=layers, embeddings=embeddings, scope=scope)
    return Plan(
        tuple(
            row if row.parameter.trainable else row.left_alone("frozen: it is not trainable")
            for row in plan
        )
    )


def _all_built(model: Any) -> bool:
    return all(layer.built for layer in model._flatten_layers())


def owners(model: Any) -> Iterator[Owner]:
    """Every variable that training may change, under every layer that holds it.

    Raises:
        ZeromeanError: A rule names a variable that its layer does not have.
    """
    for layer in model._flatten_layers():
        variables = own_variables(layer)
        aliases = {id(variable): {variable.name} for variable in variables}
        for name, value in vars(layer).items():
            aliases.get(id(value), set()).add(name)
        description = describe(layer, {*vars(layer), *(v.name for v in variables)})
        kind = type(layer).__name__
        for variable in variables:
            names = aliases[id(variable)] & set(description or ())
            told = look_up(kind, min(names, default=variable.name), description)
            if isinstance(told, FanIn) and "float" not in variable.dtype:
                told = f"{variable.dtype} entries have no mean"
            fan_in, reason = (told, kind) if isinstance(told, FanIn) else (None, told)
            shape = tuple(variable.shape)
            yield Owner(variable.path, variable, shape, layer.path, layer, fan_in, reason)


def owners_by_shape(variables: Iterable[Any]) -> Iterator[Owner]:
    """The rule without a model: all axes but the last of every variable of two or more."""
    for variable in variables:
        fan_in, reason = None, "fewer than two dimensions"
        shape = tuple(variable.shape)
        if len(shape) >= 2:
            fan_in = FanIn(
                tuple(range(len(shape) - 1)), role="conv" if len(shape) >= 4 else "linear"
            )
            reason = "by its shape alone"
        name = getattr(variable, "path", variable.name)  # a bare tf.Variable has no path
        yield Owner(name, variable, shape, name, None, fan_in, reason)

"""Build the plan of a Keras model from the fan-in rules of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, Role, describe, look_up
from zeromean.keras.fan_in_rules import own_variables
from zeromean.plan import Layers, Owner, Plan, Scope, make_plan


def explain(
    subject: Any,
    *,
    layers: Layers | None = None,
    embeddings: bool | None = None,
    scope: Scope | None = None,
) -> Plan:
    """Show for every trainable variable whether it is centered, over which axes, and why.

    Args:
        subject: A built Keras model or layer, to see what :func:`zeromean.keras.centralize` would
            center; or a built centralized optimizer, to see what it centers.
        layers, embeddings, scope: As in :func:`zeromean.keras.centralize`, with the same defaults;
            not allowed with an optimizer, which has its own.

    Returns:
        A :class:`zeromean.Plan`, a sequence of rows that prints as a table.

    Raises:
        ZeromeanError: ``subject`` is something else or is not built, or options are given with an
            optimizer.

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
            f"A {type(subject).__name__} has no plan; explain takes a Keras model or a centralized"
            " optimizer",
            "Call explain(model), or explain the optimizer that centralize returned",
        )
    if options:
        raise ZeromeanError(
            f"{', '.join(options)} cannot be combined with an optimizer, which has its own options",
            "Omit them, or pass the model",
        )
    return plan


def unwrap(optimizer: Any) -> Any:
    """Return the optimizer inside a LossScaleOptimizer, or the optimizer itself."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def plan_of(
    model: Any, layers: Layers = "all", embeddings: bool = False, scope: Scope = "vector"
) -> Plan:
    """Return the plan of a built model; frozen variables are left alone.

    Raises:
        ZeromeanError: The model has no variables yet.
    """
    # In a model with variables, an unbuilt layer is one that the model never calls.
    if not model.built or not (model.variables or all(x.built for x in model._flatten_layers())):
        raise ZeromeanError(
            f"The {type(model).__name__} {model.name!r} is not built yet, so its variables have no"
            " shapes",
            "Call it on a batch first, or start it with keras.Input",
        )
    plan = make_plan(owners(model), layers=layers, embeddings=embeddings, scope=scope)
    return Plan(
        tuple(
            row if row.parameter.trainable else row.left_alone("frozen: it is not trainable")
            for row in plan
        )
    )


def owners(model: Any) -> Iterator[Owner]:
    """Yield every trainable variable under every layer that holds it.

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
            axes = look_up(kind, min(names, default=variable.name), description)
            if isinstance(axes, FanIn) and "float" not in variable.dtype:
                axes = f"{variable.dtype} entries have no mean"
            fan_in, reason = (axes, kind) if isinstance(axes, FanIn) else (None, axes)
            shape = tuple(variable.shape)
            yield Owner(variable.path, variable, shape, layer.path, layer, fan_in, reason)


def owners_by_shape(variables: Iterable[Any]) -> Iterator[Owner]:
    """Yield every variable with all axes but the last as fan-in axes, if it has two or more."""
    for variable in variables:
        fan_in, reason = None, "fewer than two dimensions"
        shape = tuple(variable.shape)
        if len(shape) >= 2:
            role: Role = "conv" if len(shape) >= 4 else "linear"
            fan_in, reason = FanIn(tuple(range(len(shape) - 1)), role=role), "by its shape alone"
        if "float" not in str(variable.dtype):  # a tf.Variable has a tf.DType
            fan_in, reason = None, f"{variable.dtype} entries have no mean"
        name = getattr(variable, "path", variable.name)  # a tf.Variable has no path
        yield Owner(name, variable, shape, name, None, fan_in, reason)

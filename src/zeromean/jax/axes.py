"""The fan-in axes of a JAX model as a tree, and the plan that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, Role, nonnegative_axes
from zeromean.jax.owners import Holder, owners_of, parameters
from zeromean.jax.trees import is_array, leaves
from zeromean.plan import Owner, Plan, Scope, check_option, make_plan

Layers = Literal["all", "conv", "linear"]
AxesOfParameter = FanIn | tuple[int, ...] | str | None


def fan_in(subject: Any, *init_args: Any, **init_kwargs: Any) -> Any:
    """Return the fan-in axes of every parameter, to pass as ``axes=``.

    The axes follow from the class of each layer, never from names or shapes.

    Args:
        subject: A Flax NNX module, an Equinox module (or a tree that contains some), a Linen module
            or the result of ``hk.transform``. The last two need the arguments of ``init``.
        init_args, init_kwargs: Arguments of ``init``, which is traced once to see which class
            creates each parameter. Nothing is computed; abstract arrays suffice.

    Returns:
        A tree with the structure of the parameters, which are the NNX state of ``nnx.Param``, the
        Linen collection "params", the result of Haiku's ``init``, or ``subject`` itself. Each leaf
        is a :class:`zeromean.FanIn`, or the reason, as text, why the parameter has none. Change a
        leaf to override it.

    Raises:
        ZeromeanError: The arguments of ``init`` are missing or not needed, or ``subject`` is a bare
            parameter tree, which does not contain the layers.

    Example:
        >>> import jax, zeromean.jax
        >>> from flax import linen
        >>> model = linen.DenseGeneral((2, 5))
        >>> axes = zeromean.jax.fan_in(model, jax.random.key(0), jax.numpy.ones((1, 3)))
        >>> axes["kernel"].axes, axes["bias"]
        ((0,), 'a bias has no fan-in')
    """
    tree, owners = _owners_by_layer(subject, init_args, init_kwargs)
    found = {row.name: row.fan_in or row.reason for row in make_plan(owners, embeddings=True)}
    return jax.tree.unflatten(
        jax.tree.structure(tree), [found.get(leaf.name, "not an array") for leaf in leaves(tree)]
    )


def explain(
    subject: Any,
    *init_args: Any,
    axes: Any = None,
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
    **init_kwargs: Any,
) -> Plan:
    """Show for every parameter whether it is centered, over which axes, and why.

    Args:
        subject, init_args, init_kwargs: As in :func:`fan_in`; with ``axes``, a parameter tree too.
        axes: Tree of axes for these parameters, as in :func:`centralize` (default: the result of
            :func:`fan_in`).
        layers, embeddings, scope: As in :func:`centralize`.

    Returns:
        A :class:`zeromean.Plan`, a sequence of rows that prints as a table.

    Raises:
        ZeromeanError: As in :func:`fan_in` and :func:`centralize`.

    Example:
        >>> import jax, equinox, zeromean.jax
        >>> print(zeromean.jax.explain(equinox.nn.Conv2d(4, 6, 3, key=jax.random.key(0))))
        parameter  shape    role  axes   centered  reason
        weight     6x4x3x3  conv  1,2,3  yes       Conv2d, fan-in 36
        bias       6x1x1    -     -      no        a bias has no fan-in
        centered: 1 of 2 parameters, 216 of 222 entries
    """
    check_option("layers", layers, ("all", "conv", "linear"))  # as in centralize
    if axes is None:
        owners = _owners_by_layer(subject, init_args, init_kwargs)[1]
    else:
        tree, _ = parameters(subject, init_args, init_kwargs)
        owners = list(owners_by_axes(tree, parse_axes(axes)))
    return make_plan(owners, layers=layers, embeddings=embeddings, scope=scope)


def _owners_by_layer(
    subject: Any, init_args: Sequence[Any], init_kwargs: Mapping[str, Any]
) -> tuple[Any, list[Owner]]:
    tree, owners = parameters(subject, init_args, init_kwargs)
    if all(owner.module is None for owner in owners):
        raise ZeromeanError(
            f"The {len(owners)} arrays of this {type(subject).__name__} belong to no module, and"
            " names and shapes do not determine fan-in axes",
            "Pass the model (Linen and Haiku: with the arguments of its init), or write the axes"
            ' yourself: centralize({"Dense_0": {"kernel": 0, "bias": None}})',
        )
    return tree, owners


def parse_axes(axes: Any) -> dict[str, AxesOfParameter]:
    """Return the axes of each parameter of a tree of axes, by name.

    Raises:
        ZeromeanError: A leaf does not describe axes, or two leaves have the same name.
    """
    parsed: dict[str, AxesOfParameter] = {}
    for leaf in leaves(axes, is_leaf=_is_axes):
        if leaf.name in parsed:
            raise ZeromeanError(
                f"axes has two leaves with the name {leaf.name!r}", "Use keys without dots"
            )
        if isinstance(leaf.value, int) and not isinstance(leaf.value, bool):
            parsed[leaf.name] = (leaf.value,)
        elif _is_axes(leaf.value):
            parsed[leaf.name] = leaf.value or None
        else:
            raise ZeromeanError(
                f"axes has a {type(leaf.value).__name__} at {leaf.name or 'its root'}; each"
                " parameter needs a FanIn, an axis, a tuple of axes, None or a reason",
                "Pass axes=zeromean.jax.fan_in(model)",
            )
    return parsed


def owners_by_axes(tree: Any, axes: Mapping[str, AxesOfParameter]) -> Iterator[Owner]:
    """Yield each array of a tree with its given axes.

    Raises:
        ZeromeanError: An array has no entry in ``axes``, or lacks the axes of its entry.
    """
    for leaf in leaves(tree):
        if not is_array(leaf.value):
            continue
        if leaf.name not in axes:
            known = ", ".join([*map(repr, list(axes)[:3]), *["..."] * (len(axes) > 3)])
            raise ZeromeanError(
                f"axes has no entry for the parameter {leaf.name!r}; it has {known or 'none'}",
                "Build axes from the tree that the optimizer sees: the parameters without a"
                " wrapper",
            )
        given, shape = axes[leaf.name], tuple(leaf.value.shape)
        try:
            if isinstance(given, tuple):
                role: Role = "conv" if len(shape) >= 4 else "linear"
                given = FanIn(nonnegative_axes(given, len(shape)), role=role)
        except ZeromeanError as error:
            raise ZeromeanError(
                f"the parameter {leaf.name!r}: {error.problem}", error.fix
            ) from error
        if isinstance(given, FanIn) and not given.fits(shape):
            raise ZeromeanError(
                f"the parameter {leaf.name!r}: {given.words()} do not fit its shape {shape}",
                "Pass axes=zeromean.jax.fan_in(model) of the model that is trained",
            )
        holder = Holder(leaf.name, None, "given axes", given or "its axes are given as None")
        yield from owners_of(leaf, [holder])


def _is_axes(node: Any) -> bool:
    # A named tuple is a container of parameters.
    is_tuple = type(node) is tuple and all(type(axis) is int for axis in node)
    return node is None or isinstance(node, FanIn | str) or is_tuple

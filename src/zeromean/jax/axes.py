"""Axes for a JAX model: a tree of fan-in axes beside the tree of parameters, and its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.jax.names import AMBIGUOUS
from zeromean.jax.owners import Holder, owners_of, parameters
from zeromean.jax.projection import counted
from zeromean.jax.trees import is_array, leaves
from zeromean.plan import Owner, Plan, Scope, make_plan

Layers = Literal["all", "conv", "linear"]


def fan_in(subject: Any, *init_args: Any, **init_kwargs: Any) -> Any:
    """The fan-in axes of every parameter: a tree like the parameters', to pass as ``axes=``.

    A layer tells its axes by its class, never by its shape alone. Where only a parameter tree is
    given, the names and shapes tell what they can; what they leave ambiguous is left alone, with a
    warning.

    Args:
        subject: A Flax NNX module or an Equinox module; a Linen module or what ``hk.transform``
            returns, with the arguments of its ``init``; or a parameter tree of Flax or Haiku.
        init_args, init_kwargs: The arguments of ``init``, which is traced once to see which class
            makes each parameter. Nothing is computed, and abstract arrays will do.

    Returns:
        A tree of the structure of the parameters: of the NNX state of ``nnx.Param``, of the Linen
        collection "params", of what ``init`` of Haiku returns, or of ``subject`` itself. Each leaf
        is a :class:`zeromean.FanIn`, or the reason, as text, why it has none. Change a leaf to tell
        better.

    Raises:
        ZeromeanError: The arguments of ``init`` are missing, or were given to what has none.

    Example:
        >>> import jax, zeromean.jax
        >>> from flax import linen
        >>> model = linen.DenseGeneral((2, 5))
        >>> axes = zeromean.jax.fan_in(model, jax.random.key(0), jax.numpy.ones((1, 3)))
        >>> axes["kernel"].axes, axes["bias"]
        ((0,), 'a bias has no fan-in')
    """
    tree, owners = parameters(subject, init_args, init_kwargs)
    plan = make_plan(owners, embeddings=True)
    told = {row.name: row.fan_in or row.reason for row in plan}
    unclear = [name for name, what in told.items() if str(what).startswith(AMBIGUOUS)]
    if unclear:
        warn(
            f"{len(unclear)} of {len(told)} parameters are ambiguous by name and shape and are left"
            f" alone: {', '.join(unclear[:3])}{', ...' if len(unclear) > 3 else ''}; pass the model"
            " (with the arguments of its init), or tell the axes of these leaves"
        )
    return jax.tree.unflatten(
        jax.tree.structure(tree), [told.get(leaf.name, "not an array") for leaf in leaves(tree)]
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
    """Tell for every parameter whether it is centered, over which axes, and why.

    Args:
        subject, init_args, init_kwargs: As in :func:`fan_in`.
        axes: A tree of axes for these parameters, as in :func:`centralize`; by default what
            :func:`fan_in` finds.
        layers, embeddings, scope: As in :func:`centralize`.

    Returns:
        A :class:`zeromean.Plan`: a sequence of rows that prints as a table.

    Raises:
        ZeromeanError: As :func:`fan_in` and :func:`centralize`.

    Example:
        >>> import jax, equinox, zeromean.jax
        >>> print(zeromean.jax.explain(equinox.nn.Conv2d(4, 6, 3, key=jax.random.key(0))))
        parameter  shape    role  axes   centered  reason
        weight     6x4x3x3  conv  1,2,3  yes       Conv2d, fan-in 36
        bias       6x1x1    -     -      no        a bias has no fan-in
        centered: 1 of 2 parameters, 216 of 222 entries
    """
    tree, owners = parameters(subject, init_args, init_kwargs)
    if axes is not None:
        owners = list(told_owners(tree, told_axes(axes)))
    return make_plan(owners, layers=layers, embeddings=embeddings, scope=scope)


Told = FanIn | tuple[int, ...] | str | None


def told_axes(axes: Any) -> dict[str, Told]:
    """What a tree of axes says of each parameter, by name.

    Raises:
        ZeromeanError: A leaf is none of what tells axes.
    """
    told: dict[str, Told] = {}
    for leaf in leaves(axes, is_leaf=_tells):
        if isinstance(leaf.value, int) and not isinstance(leaf.value, bool):
            told[leaf.name] = (leaf.value,)
        elif _tells(leaf.value):
            told[leaf.name] = leaf.value or None
        else:
            raise ZeromeanError(
                f"axes with {type(leaf.value).__name__} at {leaf.name or 'its root'}",
                "a FanIn, an axis, a tuple of axes, None or a reason for each parameter",
                "pass axes=zeromean.jax.fan_in(model)",
            )
    return told


def told_owners(tree: Any, told: Mapping[str, Told]) -> Iterator[Owner]:
    """Each array of a tree with what was told of its axes.

    Raises:
        ZeromeanError: Nothing was told of an array, or axes that it does not have.
    """
    for leaf in leaves(tree):
        if not is_array(leaf.value):
            continue
        if leaf.name not in told:
            known = ", ".join(list(told)[:3])
            raise ZeromeanError(
                f"a parameter {leaf.name!r}, of which the axes say nothing",
                f"a parameter that they name ({known}, ...)",
                "make the axes of the tree that the optimizer sees: its parameters, no wrapper",
            )
        what = told[leaf.name]
        if isinstance(what, tuple):
            rank = len(leaf.value.shape)
            what = FanIn(counted(what, rank), role="conv" if rank >= 4 else "linear")
        yield from owners_of(
            leaf, [Holder(leaf.name, None, "as told", what or "as told: no fan-in")]
        )


def _tells(node: Any) -> bool:
    is_axes = isinstance(node, tuple) and all(type(axis) is int for axis in node)
    return node is None or isinstance(node, FanIn | str) or is_axes

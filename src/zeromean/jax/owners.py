"""The layers that hold each parameter of a JAX model, and the fan-in axes that their rules give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zeromean.class_lookup import is_a
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, describe, look_up, rule_for
from zeromean.jax import init_trace
from zeromean.jax.fan_in_rules import shift_stacked
from zeromean.jax.trees import Leaf, container, is_array, leaves, subtrees
from zeromean.plan import Owner


class Holder(NamedTuple):
    """One layer that holds an array."""

    name: str  # full name of the array there
    module: Any  # None if no layer is known
    kind: str  # class name of the layer, or another source of the axes
    axes: FanIn | str  # fan-in axes of the array, or the reason why it has none


def parameters(
    subject: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, list[Owner]]:
    """Return the parameters of a model as an optimizer sees them, and their owners.

    Each array has an owner per layer that holds it, the first under its name in the tree.

    Raises:
        ZeromeanError: The arguments are missing, or ``subject`` has no ``init``, or it contains no
            array.
    """
    recorder = init_trace.recorder_for(type(subject))
    kind = type(subject).__name__
    if recorder is not None and not args and not kwargs:
        raise ZeromeanError(
            f"The parameters of a {kind} are created by its init, which needs its arguments",
            "Pass them too: fan_in(model, jax.random.key(0), inputs); nothing is computed",
        )
    if recorder is None and (args or kwargs):
        raise ZeromeanError(
            f"A {kind} takes no arguments of init",
            "Omit them, or pass the Linen module or the Haiku transform instead of its parameters",
        )
    if recorder is not None:
        tree, makers = recorder(subject, args, kwargs)
        found = [(leaf, _makers(leaf, makers)) for leaf in leaves(tree)]
    elif is_a(type(subject), "flax.nnx.module.Module"):
        tree, found = _nnx(subject)
    else:
        tree, found = subject, list(_in_tree(subject))
    if not found:
        raise ZeromeanError(
            f"This {kind} contains no arrays",
            "Pass the module, or the tree that is trained, for example variables['params']",
        )
    return tree, [owner for leaf, holders in found for owner in owners_of(leaf, holders)]


def owners_of(leaf: Leaf, holders: Iterable[Holder]) -> Iterator[Owner]:
    """Yield one array per holder, the first under the array's name in the tree."""
    shape, dtype = tuple(leaf.value.shape), leaf.value.dtype
    # A stand-in keeps no array alive, and its identity is this leaf's only.
    parameter = jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
    for number, (name, module, kind, axes) in enumerate(holders):
        if isinstance(axes, FanIn) and not jnp.issubdtype(dtype, jnp.inexact):
            axes = f"{dtype} entries have no mean"  # noqa: PLW2901
        fan_in, reason = (axes, kind) if isinstance(axes, FanIn) else (None, axes)
        own_name = name if number else leaf.name
        yield Owner(own_name, parameter, shape, name.rpartition(".")[0], module, fan_in, reason)


def _holder(name: str, module: Any, attribute: str, known: Collection[str] | None = None) -> Holder:
    """Apply the rule of a module to one of its parameters; by default it knows its attributes."""
    kind = type(module).__name__
    if known is None:
        known = {*dir(type(module)), *getattr(module, "__dict__", ())}
    return Holder(name, module, kind, look_up(kind, attribute, describe(module, known)))


def _without_module(leaf: Leaf) -> Holder:
    return Holder(leaf.name, None, "", "no module holds it; give its axes")


# --- Trees, and Equinox modules, which are trees --------------------------------------------------


def _in_tree(tree: Any) -> Iterator[tuple[Leaf, list[Holder]]]:
    ties = _equinox_ties(tree)
    for leaf in leaves(tree):
        if is_array(leaf.value):
            module = container(tree, leaf.keys)
            is_layer = _is_layer(module)
            own = _holder(leaf.name, module, leaf.path[-1]) if is_layer else _without_module(leaf)
            yield leaf, [own, *ties.get(id(leaf.value), [])]


def _is_layer(node: Any) -> bool:
    """Return whether a node of a tree has a rule, or is a module that should have one."""
    return rule_for(node) is not None or is_a(type(node), "equinox._module._module.Module")


def _equinox_ties(tree: Any) -> dict[int, list[Holder]]:
    """Return the layers that ``equinox.nn.Shared`` ties each array to, by the id of the array."""
    ties: dict[int, list[Holder]] = defaultdict(list)
    for node in subtrees(tree):
        if is_a(type(node), "equinox.nn._shared.Shared"):
            own = [id(value) for value in jax.tree.leaves(node) if is_array(value)]
            init_trace.abstractly(partial(_record_ties, ties, own), (node,), {})
    return ties


def _record_ties(ties: dict[int, list[Holder]], own: Sequence[int], shared: Any) -> None:
    """Add the ties of a traced ``Shared``; ``own`` are the ids of its arrays before tracing."""
    traced = filter(is_array, jax.tree.leaves(shared))
    key_of = dict(zip(map(id, traced), own, strict=True))
    tied = shared()
    for leaf in leaves(tied):
        if is_array(leaf.value):
            holder = _holder(leaf.name, container(tied, leaf.keys), leaf.path[-1])
            if id(leaf.value) in key_of:
                ties[key_of[id(leaf.value)]].append(holder)
                continue
            # A computed array, a transpose for example, may depend on any of the arrays.
            for key in own:
                ties[key].append(holder._replace(axes="computed by equinox.nn.Shared"))


# --- Flax NNX -------------------------------------------------------------------------------------


def _nnx(model: Any) -> tuple[Any, list[tuple[Leaf, list[Holder]]]]:
    from flax import nnx

    tree = nnx.state(model, nnx.Param)
    variables: dict[str, Any] = {}
    holders: dict[int, list[Holder]] = defaultdict(list)
    for path, module in nnx.iter_modules(model):
        for attribute, variable in vars(module).items():
            if isinstance(variable, nnx.Param):
                name = ".".join(map(str, (*path, attribute)))
                variables[name] = variable
                holders[id(variable)].append(_holder(name, module, attribute))
    found = []
    for leaf in filter(lambda leaf: is_array(leaf.value), leaves(tree)):
        # One variable may have several holders; the one with the name in the tree comes first.
        held = holders[id(variables.get(leaf.name))]
        held = sorted(held, key=lambda holder: holder.name != leaf.name)
        found.append((leaf, held or [_without_module(leaf)]))
    return tree, found


# --- Flax Linen and Haiku -------------------------------------------------------------------------


def _makers(leaf: Leaf, makers: init_trace.Makers) -> list[Holder]:
    """Apply the rules of the modules that created an array."""
    held = []
    for module, shapes, attends in makers(leaf):
        holder = _holder(leaf.name, module, leaf.path[-1], shapes)
        if attends and isinstance(holder.axes, FanIn) and holder.axes.role == "embedding":
            holder = holder._replace(axes="attend uses it as an output layer too")
        if isinstance(holder.axes, FanIn):
            axes = shift_stacked(holder.axes, shapes[leaf.path[-1]], leaf.value.shape)
            holder = holder._replace(axes=axes)
        held.append(holder)
    return held or [_without_module(leaf)]

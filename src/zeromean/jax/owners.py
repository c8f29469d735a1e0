"""Who owns each parameter of a JAX model, and what the owner's rule says of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zeromean.class_lookup import is_a
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, describe, look_up, rule_for
from zeromean.jax import init_trace
from zeromean.jax.layers import stacked
from zeromean.jax.names import by_names
from zeromean.jax.trees import Leaf, container, is_array, leaves, subtrees
from zeromean.plan import Owner


class Parameters(NamedTuple):
    """The parameters of a model.

    Args:
        tree: The parameters, as an optimizer sees them.
        owners: Each array under every layer that holds it, first under its name in the tree.
    """

    tree: Any
    owners: list[Owner]


class Holder(NamedTuple):
    """One layer that holds an array.

    Args:
        name: The array's full name there.
        module: The layer, or None where only names are known.
        kind: What it is.
        told: What is known of the array's axes, or why nothing is.
    """

    name: str
    module: Any
    kind: str
    told: FanIn | str


def parameters(subject: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Parameters:
    """The parameters of a model, or of a tree, and their owners.

    Args:
        subject: An NNX or Equinox module, a Linen module, what ``hk.transform`` returns, or a tree.
        args, kwargs: What the ``init`` of a Linen module or a Haiku transform takes.

    Raises:
        ZeromeanError: They are missing, or were given to what has no ``init``; or there is no array
            in the tree.
    """
    recorder = init_trace.recorder_for(type(subject))
    kind = type(subject).__name__
    if recorder is not None and not args and not kwargs:
        raise ZeromeanError(
            f"a {kind} alone, whose parameters are made by its init",
            "the arguments of init too",
            "pass them as well: fan_in(model, jax.random.key(0), inputs); nothing is computed",
        )
    if recorder is None and (args or kwargs):
        raise ZeromeanError(
            f"arguments of init with a {kind}, which needs none",
            "an NNX or Equinox module, or a parameter tree, alone",
            "leave them out, or pass the Linen module or the Haiku transform instead of its tree",
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
            f"a {kind} without arrays",
            "a model, or its parameters",
            "pass the module, or the tree that is trained: variables['params'], for example",
        )
    return Parameters(tree, [owner for leaf, held in found for owner in owners_of(leaf, held)])


def owners_of(leaf: Leaf, holders: Iterable[Holder]) -> Iterator[Owner]:
    """One array as each of its holders has it, the first under the array's name in the tree."""
    shape, dtype = tuple(leaf.value.shape), leaf.value.dtype
    parameter = jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call] # keeps no array alive, and is no other's
    for number, (name, module, kind, told) in enumerate(holders):
        if isinstance(told, FanIn) and not jnp.issubdtype(dtype, jnp.inexact):
            told = f"{dtype} entries have no mean"  # noqa: PLW2901
        fan_in, reason = (told, kind) if isinstance(told, FanIn) else (None, told)
        own_name = name if number else leaf.name
        yield Owner(own_name, parameter, shape, name.rpartition(".")[0], module, fan_in, reason)


def _holder(name: str, module: Any, attribute: str) -> Holder:
    """What a module's rule says of one of its attributes."""
    kind = type(module).__name__
    description = describe(module, {*dir(type(module)), *getattr(module, "__dict__", ())})
    return Holder(name, module, kind, look_up(kind, attribute, description))


# --- Trees, and Equinox modules, which are trees --------------------------------------------------


def _in_tree(tree: Any) -> Iterator[tuple[Leaf, list[Holder]]]:
    found = [leaf for leaf in leaves(tree) if is_array(leaf.value)]
    shapes = {leaf.path: tuple(leaf.value.shape) for leaf in found}
    ties = _equinox_ties(tree)
    for leaf in found:
        module = container(tree, leaf.keys)
        if _is_layer(module):
            holders = [_holder(leaf.name, module, leaf.path[-1])]
        else:
            beside = (shapes.get((*leaf.path[:-1], bias)) for bias in ("bias", "b"))
            bias = next(filter(None, beside), None)
            told = by_names(leaf.path, shapes[leaf.path], bias)
            holders = [Holder(leaf.name, None, "by its name and shape", told)]
        yield leaf, holders + ties.get(id(leaf.value), [])


def _is_layer(node: Any) -> bool:
    """Whether a node of a tree is an object with a rule, or one that should have one."""
    return rule_for(type(node)) is not None or is_a(type(node), "equinox._module._module.Module")


def _equinox_ties(tree: Any) -> dict[int, list[Holder]]:
    """What ``equinox.nn.Shared`` ties each array to, by the id of the array."""
    ties: dict[int, list[Holder]] = defaultdict(list)
    for node in subtrees(tree):
        if not is_a(type(node), "equinox.nn._shared.Shared"):
            continue
        own = {id(value) for value in jax.tree.leaves(node.pytree) if is_array(value)}
        tied = node()
        for leaf in leaves(tied):
            if is_array(leaf.value):
                holder = _holder(leaf.name, container(tied, leaf.keys), leaf.path[-1])
                if id(leaf.value) in own:
                    ties[id(leaf.value)].append(holder)
                    continue
                # What the tie made, a transpose for example, may be made of any of its arrays.
                for key in own:
                    ties[key].append(holder._replace(told="made of others by equinox.nn.Shared"))
    return ties


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
    for leaf in leaves(tree):
        # One variable may have several holders; the one whose name the tree has comes first.
        held = holders[id(variables.get(leaf.name))]
        held = sorted(held, key=lambda holder: holder.name != leaf.name)
        unknown = Holder(leaf.name, None, "", "no module holds it: tell its axes")
        found.append((leaf, held or [unknown]))
    return tree, found


# --- Flax Linen and Haiku -------------------------------------------------------------------------


def _makers(leaf: Leaf, makers: init_trace.Makers) -> list[Holder]:
    """What the rules of the modules say that were seen making an array."""
    held = []
    for module, own, names in makers(leaf):
        kind = type(module).__name__
        told = look_up(kind, leaf.path[-1], describe(module, names))
        if isinstance(told, FanIn):
            told = stacked(told, own, leaf.value.shape)
        held.append(Holder(leaf.name, module, kind, told))
    return held or [Holder(leaf.name, None, "", "no module was seen making it: tell its axes")]

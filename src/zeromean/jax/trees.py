"""Parameter trees: one name per array, whatever the containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from zeromean.class_lookup import is_a

# Boxes around one array; some functions of Flax remove them, others keep them.
_BOXES = ("flax.nnx.variablelib.Variable", "flax.core.meta.AxisMetadata")


class Leaf(NamedTuple):
    """One leaf of a tree."""

    path: tuple[str, ...]  # names from the root to the leaf
    keys: tuple[Any, ...]  # JAX's keys for the same path
    value: Any

    @property
    def name(self) -> str:
        """The dotted path, for example ``layers.0.weight``."""
        return ".".join(self.path)


def leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Leaf]:
    """Return the leaves of a tree in JAX's order; a box has the name of its array."""

    def closed(node: Any) -> bool:
        return _is_box(node) or (is_leaf is not None and is_leaf(node))

    found: list[Leaf] = []
    for keys, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=closed)[0]:
        path = tuple(map(_text, keys))
        inside = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_leaf)[0]
        for more, value in inside:
            own = path if len(inside) == 1 else (*path, *map(_text, more))
            found.append(Leaf(own, tuple(keys), value))
    return found


def container(tree: Any, keys: Sequence[Any]) -> Any:
    """Return the node that holds the leaf at the end of these keys, or None if it is unknown."""
    for key in keys[:-1]:
        if isinstance(key, GetAttrKey):
            tree = getattr(tree, key.name)
        elif isinstance(key, DictKey):
            tree = tree[key.key]
        elif isinstance(key, SequenceKey):
            tree = tree[key.idx]
        else:
            return None
    return tree


def is_array(value: Any) -> bool:
    """Return whether a leaf is an array or an abstract array."""
    # numpy.float32 itself, a common value of dtype=, has these attributes too.
    return not isinstance(value, type) and hasattr(value, "shape") and hasattr(value, "dtype")


def subtrees(tree: Any) -> Iterator[Any]:
    """Yield the tree and every node inside it."""
    yield tree
    inside = jax.tree_util.tree_flatten(tree, is_leaf=lambda node: node is not tree)[0]
    for node in inside:
        if node is not tree:
            yield from subtrees(node)


def _is_box(node: Any) -> bool:
    return any(is_a(type(node), box) for box in _BOXES)


def _text(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)

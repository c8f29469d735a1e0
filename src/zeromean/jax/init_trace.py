"""Record which class creates each parameter of a Linen module or a Haiku transform.

Their parameter trees contain no classes, so ``init`` is traced once with an interceptor around
every method: a parameter that a module owns afterwards was created by its class. The recorded
shapes are the layer's own; an outer ``scan`` or ``vmap`` may add axes in front.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from zeromean.class_lookup import nearest
from zeromean.fan_in import rule_for
from zeromean.jax.trees import Leaf, is_array, leaves

Shape = tuple[int, ...]


class Maker(NamedTuple):
    """One module that created parameters."""

    module: Any
    shapes: Mapping[str, Shape]  # of each parameter as the module created it, by name
    attends: bool = False  # whether its embedding is multiplied with features, as an output layer


Makers = Callable[[Leaf], list[Maker]]
Recorder = Callable[[Any, Sequence[Any], Mapping[str, Any]], tuple[Any, Makers]]


def recorder_for(subject_class: type) -> Recorder | None:
    """Return the recorder for a class, or None if its objects already have their parameters."""
    return nearest(_RECORDERS, subject_class)


def _linen(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Makers]:
    from flax import linen

    seen: dict[tuple[str, ...], list[Maker]] = defaultdict(list)
    attending: set[tuple[str, ...]] = set()

    def record(method: Callable[..., Any], a: Any, k: Any, context: Any) -> Any:
        result = method(*a, **k)
        module = context.module
        if module.scope is not None:  # None for a module that is not in use
            own = module.variables.get("params", {})
            seen[module.path].append(Maker(module, dict(_arrays(own))))
            if context.method_name == "attend":
                attending.add(module.path)
        return result

    with linen.intercept_methods(record):
        variables = abstractly(model.init, args, kwargs)

    def makers(leaf: Leaf) -> list[Maker]:
        name = leaf.path[-1]
        made = [one for one in seen[leaf.path[:-1]] if name in one.shapes]
        # linen.share_scope lets a layer and its wrapper own the same parameters.
        found = _distinct([one for one in made if rule_for(one.module)] or made, name)
        return [one._replace(attends=leaf.path[:-1] in attending) for one in found]

    return variables.get("params", {}), makers


def _haiku(transform: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Makers]:
    import haiku

    seen: dict[str, list[Maker]] = defaultdict(list)

    def record(method: Callable[..., Any], a: Any, k: Any, context: Any) -> Any:
        result = method(*a, **k)
        if context.method_name not in ("__init__", "params_dict", "state_dict"):
            module = context.module
            prefix = f"{module.module_name}/"
            shapes = {
                key.removeprefix(prefix): tuple(value.shape)
                for key, value in module.params_dict().items()
                if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
            }
            seen[module.module_name].append(Maker(module, shapes))
        return result

    with haiku.intercept_methods(record):
        made = abstractly(transform.init, args, kwargs)
    tree = made[0] if isinstance(made, tuple) else made  # with state: (params, state)

    def makers(leaf: Leaf) -> list[Maker]:
        module_name, name = leaf.path
        parts, shape = module_name.split("/"), tuple(leaf.value.shape)
        # A lifted module, in a layer_stack for example, was recorded without the leading names.
        for start in range(len(parts)):
            fitting = [
                one
                for one in seen["/".join(parts[start:])]
                if name in one.shapes and _ends_in(shape, one.shapes[name], exactly=start == 0)
            ]
            if fitting:
                return _distinct(fitting, name)
        return []

    return tree, makers


_RECORDERS: dict[type | str, Recorder] = {
    "flax.linen.module.Module": _linen,
    "haiku._src.transform.Transformed": _haiku,
    "haiku._src.transform.TransformedWithState": _haiku,
    "haiku._src.multi_transform.MultiTransformed": _haiku,
    "haiku._src.multi_transform.MultiTransformedWithState": _haiku,
}


def abstractly(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the shapes of the result of a call; arguments that are not arrays stay concrete."""
    values, structure = jax.tree.flatten((tuple(args), dict(kwargs)))
    arrays = [value for value in values if _is_traced(value)]

    def run(*given: Any) -> Any:
        rest = iter(given)
        filled = [next(rest) if _is_traced(value) else value for value in values]
        run_args, run_kwargs = jax.tree.unflatten(structure, filled)
        return function(*run_args, **run_kwargs)

    return jax.eval_shape(run, *arrays)


def _is_traced(value: Any) -> bool:
    return is_array(value) and not isinstance(value, jax.numpy.generic)  # NumPy's scalars


def _arrays(own: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of the arrays directly in a collection, without their boxes."""
    for name, value in own.items():
        inside = leaves(value)
        if not isinstance(value, Mapping) and len(inside) == 1:
            yield name, jax.numpy.shape(inside[0].value)


def _ends_in(shape: Shape, own: Shape, *, exactly: bool) -> bool:
    return shape == own if exactly else shape[len(shape) - len(own) :] == own


def _distinct(seen: Sequence[Maker], name: str) -> list[Maker]:
    """Return each class and shape once; a module is recorded at each call of each method."""
    return list({(type(one.module), one.shapes[name]): one for one in seen}.values())

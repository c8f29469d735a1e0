"""What has to be known of optax's transformations, read from what they close over.

optax's optimizers are pairs of functions. Which transformation made them is in their qualified
names, and what they are made of in their closures.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from optax import GradientTransformation

from zeromean.errors import ZeromeanError

DECAY = "add_decayed_weights"

# These shape the gradient before the optimizer proper, at the head of its chain.
_SHAPES_GRADIENT = {
    DECAY,
    "adaptive_grad_clip",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "identity",
    "zero_nans",
}
# Why the whole update cannot be projected behind these.
_REFUSES_UPDATE = {
    "schedule_free": "it owns another iterate, z, whose mean moves all the same",
    "scale_by_backtracking_linesearch": "its next step relies on the point that its search found",
    "scale_by_zoom_linesearch": "its next step relies on the point that its search found",
}


def split(
    transformation: GradientTransformation,
) -> tuple[list[GradientTransformation], list[GradientTransformation]]:
    """What shapes the gradient at the head of a chain, and the optimizer proper behind it."""
    members = _members(transformation)
    if members is None:
        alone = [transformation]
        return (alone, []) if _shapes_gradient(transformation) else ([], alone)
    head: list[GradientTransformation] = []
    for number, member in enumerate(members):
        shaping, proper = split(member)
        head += shaping
        if proper:
            return head, [*proper, *members[number + 1 :]]
    return head, []


def refuse_hidden_decay(proper: list[GradientTransformation]) -> None:
    """Raise where a wrapper hides decay that is added to the gradient, behind the centering."""
    if not proper or _members(proper[0]) is not None:
        return
    for inside in _inside(proper[0]):
        head, behind = split(inside)
        if any(_makes(one, DECAY) for one in head):
            raise ZeromeanError(
                f"{_maker(proper[0])} around an optimizer that adds weight decay to the gradient",
                "coupled weight decay inside the projection",
                "put centralized around the optimizer inside, or chain zeromean.jax.centralize"
                " behind its add_decayed_weights",
            )
        refuse_hidden_decay(behind)


def refuse_update(transformation: GradientTransformation) -> None:
    """Raise where ``at="update"`` cannot be right."""
    reason = _REFUSES_UPDATE.get(_maker(transformation))
    if reason is not None:
        raise ZeromeanError(
            f"at='update' with {_maker(transformation)}",
            f"another place, because {reason}",
            "use at='gradient'",
        )
    for inside in _inside(transformation):
        refuse_update(inside)


def _members(transformation: GradientTransformation) -> list[GradientTransformation] | None:
    """The transformations of a chain, or None for what is no chain."""
    maker = _maker(transformation)
    if maker == "chain":
        inits = _closure(transformation.init)["init_fns"]
        updates = _closure(transformation.update)["update_fns"]
        kind = type(transformation)
        return [kind(*pair) for pair in zip(inits, updates, strict=True)]
    if maker == "named_chain":
        return [one for _, one in _closure(transformation.update)["transforms"]]
    return None


def _shapes_gradient(transformation: GradientTransformation) -> bool:
    if _maker(transformation) == "masked":
        return _shapes_gradient(_closure(transformation.update)["inner"])
    return _maker(transformation) in _SHAPES_GRADIENT


def _makes(transformation: GradientTransformation, maker: str) -> bool:
    made_by = _maker(transformation)
    if made_by == "masked":
        return _makes(_closure(transformation.update)["inner"], maker)
    return made_by == maker


def _maker(transformation: GradientTransformation) -> str:
    """The name of optax's function that made it, or "" for what is not optax's."""
    update = inspect.unwrap(transformation.update)  # out of jax.jit
    if not inspect.isroutine(update) or not update.__module__.startswith("optax."):
        return ""
    maker = update.__qualname__.partition(".")[0]
    if maker == "with_extra_args_support":  # around what takes no extra arguments
        return _maker(_closure(update)["tx"])
    return str(maker)


def _closure(function: Any) -> Mapping[str, Any]:
    function = inspect.unwrap(function)
    return inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}


def _inside(transformation: GradientTransformation) -> Iterator[GradientTransformation]:
    """Every transformation that one holds, in its closure or as a method of its object."""
    members = _members(transformation)
    if members is not None:
        yield from members
        return
    owner = getattr(transformation.update, "__self__", None)
    held = {**_closure(transformation.update), **getattr(owner, "__dict__", {})}
    for value in held.values():
        for one in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(one, GradientTransformation):
                yield one

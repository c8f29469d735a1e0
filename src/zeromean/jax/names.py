"""Fan-in axes by names and shapes, where those decide: for parameter trees without their model.

A kernel of Flax and Haiku ends in (in, out), but from three dimensions on kinds collide: a
convolution, attention's projections, layers stacked by ``scan``, a transposed convolution of either
layout. What narrows it down is the name that the framework gives by class ("Conv_0"), and the bias
beside the kernel, which has one number an output unit: the axes that it lacks are the fan-in. What
stays ambiguous is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from zeromean.fan_in import FanIn, Role

Axes = tuple[int, ...]

AMBIGUOUS = "ambiguous"


def by_names(path: Sequence[str], shape: Sequence[int], bias: Sequence[int] | None) -> FanIn | str:
    """What the names and shapes of a parameter tree tell of one of its arrays.

    Args:
        path: The names that lead to the array, its own last.
        shape: Its shape.
        bias: The shape of the bias beside it, if there is one.

    Returns:
        The fan-in axes, or the reason why there are none, which begins with "ambiguous" where the
        names leave several possibilities.
    """
    name = path[-1] if path else ""
    modules = [part for entry in path[:-1] for part in entry.split("/")]
    if name in ("bias", "b", "offset"):
        return "a bias has no fan-in"
    if len(shape) < 2:
        return "fewer than two dimensions"
    if name in _EMBEDDINGS and len(shape) == 2:
        return FanIn((0,), role="embedding")
    if name in _MATRICES and len(shape) == 2:
        return FanIn((0,))
    if name not in ("kernel", "w"):
        return f"the name {name!r} tells no axes: pass the model, or a tree of axes"
    layer = re.sub(r"_\d+$", "", modules[-1]) if modules else ""
    options = set(_options(layer, len(shape), any(map(_LIFTED.match, modules))))
    if bias is not None:
        sizes = [size for size in bias if size != 1]
        options = {axes for axes in options if _sizes_left(axes, shape) == sizes}
    if len(options) == 1:
        (axes,) = options
        return FanIn(axes, role=_role(layer, axes, len(shape)))
    if not options:
        return f"{AMBIGUOUS}: its shape and its bias fit no known layer"
    return f"{AMBIGUOUS}: axes {' or '.join(map(_text, sorted(options)))}; pass the model"


_EMBEDDINGS = ("embedding", "embeddings")
_MATRICES = ("w_i", "w_h", "lora_a", "lora_b")  # Haiku's GRU, NNX's LoRA
_LIFTED = re.compile(r"(Scan|Vmap)[A-Z]|__layer_stack")  # these put axes in front


def _options(layer: str, rank: int, is_lifted: bool) -> Iterable[Axes]:
    """The fan-in axes that a kernel may have, by the name that its layer's class gives."""
    axes_of = next(axes_of for pattern, axes_of in _LAYERS if re.fullmatch(pattern, layer))
    for front in range(rank - 1 if is_lifted else 1):
        yield from (tuple(a + front for a in axes) for axes in axes_of(rank - front))


def _dense(rank: int) -> Iterable[Axes]:
    """(in, out), or a stack of these along any axis."""
    return [(axis,) for axis in range(rank - 1)]


def _convolution(rank: int) -> Iterable[Axes]:
    yield tuple(range(rank - 1))


def _transposed(rank: int) -> Iterable[Axes]:
    yield (*range(rank - 2), rank - 1)


def _either_transposed(rank: int) -> Iterable[Axes]:
    yield from _convolution(rank)
    yield from _transposed(rank)


def _any_inputs(rank: int) -> Iterable[Axes]:
    """(batch..., in..., out...) of any numbers of each."""
    for first in range(rank - 1):
        for end in range(first + 1, rank):
            yield tuple(range(first, end))


def _einsum(rank: int) -> Iterable[Axes]:
    """Any axis, or several in a row."""
    for first in range(rank):
        for end in range(first + 1, rank + 1):
            yield tuple(range(first, end))


def _anything(rank: int) -> Iterable[Axes]:
    """A matrix is a Dense; of more dimensions anything may be."""
    return _dense(rank) if rank == 2 else [*_any_inputs(rank), *_transposed(rank)]


_LAYERS: list[tuple[str, Callable[[int], Iterable[Axes]]]] = [
    (r"Dense|linear", _dense),
    (r"Conv|(depthwise_)?conv(\d_|_n)d", _convolution),
    (r"ConvTranspose", _either_transposed),
    (r"conv(\d_|_n)d_transpose", _transposed),
    (r"DenseGeneral", _any_inputs),
    (r"Einsum", _einsum),
    (r".*", _anything),
]


def _sizes_left(axes: Axes, shape: Sequence[int]) -> list[int]:
    return [size for axis, size in enumerate(shape) if axis not in axes and size != 1]


def _role(layer: str, axes: Axes, rank: int) -> Role:
    is_convolution = "conv" in layer.lower() or (rank >= 4 and len(axes) == rank - 1)
    return "conv" if is_convolution else "linear"


def _text(axes: Axes) -> str:
    return ",".join(map(str, axes))

"""The native backend: a small C library, each weight vector centered and stepped while in cache."""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from zeromean.fan_in import FanIn
from zeromean.kernels import reference
from zeromean.kernels.layout import Layout, layout_of, same_layout
from zeromean.kernels.rules import STATE, AdamRule, At, Decay, Entry, Kind, Rule

# The orders of the enums of centered.c, and of its structures' fields.
_KINDS: dict[Kind | str, int] = {
    name: number
    for number, name in enumerate(
        ("center", "note", "keep", "sgd", "momentum", "nesterov", "adam", "amsgrad")
    )
}
_AT: dict[At, int] = {"gradient": 1, "update": 2}
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
_FIELDS = 15
_STARTS = 13


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library that was built with the package, or None where it was not."""
    path = Path(__file__).with_name("centered.dll" if sys.platform == "win32" else "centered.so")
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    library.zeromean_step.argtypes = [*[word] * 4, *[pointer] * 5, word]
    library.zeromean_step.restype = None
    library.zeromean_use_threads_of.argtypes = [pointer]
    library.zeromean_use_threads_of.restype = None
    # torch's own OpenMP runtime, found among what torch itself is linked with: a second runtime
    # would bring threads that torch.set_num_threads does not know of.
    try:
        threads = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return library  # a torch without that runtime: one thread
    library.zeromean_use_threads_of(ctypes.cast(threads, pointer))
    return library


def serves(kind: Kind, entry: Entry, gradient: Tensor) -> bool:
    """Whether the library can step this entry along this gradient."""
    weight = entry.weight
    shape, strides = tuple(weight.shape), weight.stride()
    if not (plain(weight) and plain(gradient) and gradient.dtype == weight.dtype):
        return False
    if layout_of(shape, strides, entry.fan_in) is None:
        return False
    state = [entry.state[key] for key in STATE[kind] if entry.state.get(key) is not None]
    if not all(
        plain(x) and x.dtype == weight.dtype and same_layout(x.stride(), strides, shape)
        for x in state
    ):
        return False
    step = entry.state.get("step")
    return step is None or (plain(step) and step.dtype in (torch.float32, torch.float64))


def serves_center(
    into: Tensor, gradient: Tensor, fan_in: FanIn | None, weight: Tensor | None
) -> bool:
    """Whether the library can center this gradient, with what decays inside the projection."""
    shape, strides = tuple(gradient.shape), gradient.stride()
    others = (into,) if weight is None else (into, weight)
    return (
        plain(gradient)
        and layout_of(shape, strides, fan_in) is not None
        and all(
            plain(x) and x.dtype == gradient.dtype and same_layout(x.stride(), strides, shape)
            for x in others
        )
    )


def plain(x: Tensor) -> bool:
    """Whether this is a tensor that the library can read and write as it lies in memory."""
    return (
        (type(x) is Tensor or type(x) is nn.Parameter)
        and x.is_cpu
        and x.layout is torch.strided
        and x.dtype in TYPES
        and not x.is_neg()
    )


def center_(
    into: Sequence[Tensor],
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Sequence[Decay | None],
) -> None:
    """``into = g - mean(g) - lambda mean(w)``, of tensors of one type."""
    weights = [None if decay is None else decay[0] for decay in decays]
    table = _center_table(gradients, fan_ins, range(len(gradients)), weights)
    numbers = _decay_numbers([0.0 if decay is None else decay[1] for decay in decays])
    _call("center", gradients[0].dtype, table, _addresses(gradients), numbers, into=into)
    increment_version(into)


class Center:
    """Centers gradients of one type, in place, again and again.

    Args:
        entries: Whose gradients; all served.
        gradients: The gradients, to learn how they lie in memory.
        decayed: Whether ``lambda w`` may belong inside the projection.
    """

    def __init__(
        self, entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
    ) -> None:
        self._weights = [entry.weight for entry in entries] if decayed else []
        self._found = _where(self._weights), _describe(gradients)
        self._dtype = gradients[0].dtype
        # The last first: optimizers begin with the first, which the cache then still holds.
        self._table = _center_table(
            gradients[::-1],
            [entry.fan_in for entry in reversed(entries)],
            [entry.group for entry in reversed(entries)],
            self._weights[::-1],
        )

    def fits(self, gradients: Sequence[Tensor]) -> bool:
        """Whether weights are still where they were and gradients lie as they did."""
        try:
            return (_where(self._weights), _describe(gradients)) == self._found
        except RuntimeError:
            return False  # a sparse gradient has no address

    def run(self, gradients: Sequence[Tensor], decays: Sequence[float | Tensor]) -> None:
        """Center every gradient, with its group's decay inside the projection."""
        numbers = _decay_numbers(decays if self._weights else [0.0] * len(decays))
        _call("center", self._dtype, self._table, _addresses(gradients[::-1]), numbers)
        increment_version(gradients)


class Keep:
    """Notes down the means of weights of one type before a step, and puts them back after it.

    Args:
        entries: The weights, and what rounding took from their means so far; all served.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._weights = [entry.weight for entry in entries]
        self._found = _where(self._weights)
        self._table = array("q")
        self._vectors = [0]
        for entry in entries:
            layout = _layout(entry.weight, entry.fan_in)
            residual = 0 if entry.residual is None else entry.residual.data_ptr()
            before = self._vectors[-1]
            self._table.extend((*layout, 1, 0, 0, 0, 0, 0, 0, 0, residual, 0, before))
            self._vectors.append(before + layout.outer * layout.inner)

    def fits(self) -> bool:
        """Whether the weights are still where they were, and lie as they did."""
        try:
            return _where(self._weights) == self._found
        except RuntimeError:
            return False

    def note(self) -> Tensor:
        """The mean of every weight vector."""
        means = torch.empty(self._vectors[-1], dtype=torch.float64)
        self._run("note", means)
        return means

    def put_back(self, noted: Tensor) -> None:
        """Give every weight vector the mean that was noted down."""
        if self.fits():
            self._run("keep", noted)
            increment_version(self._weights)
        else:  # the step moved its weights to other memory
            lengths = [end - start for start, end in pairwise(self._vectors)]
            reference.Keep(self._entries).put_back(torch.split(noted, lengths))

    def _run(self, kind: str, means: Tensor) -> None:
        weights = _addresses(self._weights)
        _call(kind, self._weights[0].dtype, self._table, weights, _decay_numbers([0.0]), means)


class Step:
    """A step of entries of one type, their addresses collected once.

    Args:
        kind: Which step.
        at: Whether the gradient or the whole update is centered.
        entries: What to step; all served.
        gradients: A gradient for each, to learn how they lie in memory.
    """

    def __init__(
        self, kind: Kind, at: At, entries: Sequence[Entry], gradients: Sequence[Tensor]
    ) -> None:
        self._kind, self._at, self._dtype = kind, at, entries[0].weight.dtype
        self._weights = [entry.weight for entry in entries]
        self._states = [entry.state for entry in entries]
        self._residuals = [entry.residual for entry in entries]  # kept alive by their addresses
        self._keys = STATE[kind]
        starts = [_start(entry, self._keys) for entry in entries]
        self._starting = [index for index, start in enumerate(starts) if start]
        self._table = array("q")
        for entry, start in zip(entries, starts, strict=True):
            self._table.extend(self._fields(entry, start))
        self._found = self._look()
        self._gradients_found = _describe(gradients)
        # A gradient that lies otherwise than its weight is copied first, at each step.
        self._relaid = [
            index
            for index, (w, g) in enumerate(zip(self._weights, gradients, strict=True))
            if not same_layout(w.stride(), g.stride(), tuple(w.shape))
        ]

    def _fields(self, entry: Entry, start: bool) -> tuple[int, ...]:
        weight = entry.weight
        layout = _layout(weight, entry.fan_in)
        running = [entry.state[key].data_ptr() for key in self._keys]
        step = entry.state["step"] if self._kind in ("adam", "amsgrad") else None
        return (
            *layout,
            entry.fan_in is not None,
            entry.group,
            weight.data_ptr(),
            *running,
            *([0] * (3 - len(running))),
            0 if step is None else step.data_ptr(),
            step is not None and step.dtype == torch.float64,
            0 if entry.residual is None else entry.residual.data_ptr(),
            start,
            0,
        )

    def _look(self) -> tuple[object, ...]:
        """Where the weights and their state are now, and how the weights lie."""
        weights, states = self._weights, self._states
        where = [[w.data_ptr() for w in weights], [*map(Tensor.stride, weights)]]
        keys = (*self._keys, "step") if self._kind in ("adam", "amsgrad") else self._keys
        where += [[state[key].data_ptr() for state in states] for key in keys]
        return (*where, weights[0].dtype)

    def fits(self, gradients: Sequence[Tensor]) -> bool:
        """Whether everything is still where it was and gradients lie as they did."""
        try:
            return self._look() == self._found and _describe(gradients) == self._gradients_found
        except (RuntimeError, KeyError, AttributeError):
            return False  # a sparse gradient has no address; a buffer was taken away

    def run(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Step every entry along its gradient, by its group's rule."""
        if self._relaid:
            gradients = list(gradients)
            for index in self._relaid:
                gradients[index] = torch.empty_like(self._weights[index]).copy_(gradients[index])
        numbers = array("d", [number for rule in rules for number in _numbers(rule)])
        _call(self._kind, self._dtype, self._table, _addresses(gradients), numbers, at=self._at)
        increment_version(self._weights)
        for index in self._starting:
            self._table[index * _FIELDS + _STARTS] = 0
        self._starting = []


def _start(entry: Entry, keys: tuple[str, ...]) -> bool:
    """Make the momentum that torch makes at the first step; say whether it is empty."""
    if keys != ("momentum_buffer",) or entry.state.get("momentum_buffer") is not None:
        return False
    entry.state["momentum_buffer"] = torch.zeros_like(entry.weight)
    return True


def _layout(x: Tensor, fan_in: FanIn | None) -> Layout:
    layout = layout_of(tuple(x.shape), x.stride(), fan_in)
    assert layout is not None
    return layout


def _where(weights: Sequence[Tensor]) -> tuple[object, ...]:
    """Where weights are and how they lie."""
    return ([w.data_ptr() for w in weights], _describe(weights))


def _describe(tensors: Sequence[Tensor]) -> tuple[object, ...]:
    """How tensors lie in memory; of dense ones, strides and numbers of entries tell the shapes."""
    return (
        [*map(type, tensors)],
        [x.dtype for x in tensors],
        [x.is_cpu for x in tensors],
        [*map(Tensor.numel, tensors)],
        [*map(Tensor.stride, tensors)],
        [*map(Tensor.is_neg, tensors)],
    )


def _center_table(
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn | None],
    groups: Iterable[int],
    weights: Sequence[Tensor | None],
) -> array[int]:
    """What the library is told of gradients to center; without any weights nothing decays."""
    table = array("q")
    weights = weights or [None] * len(gradients)
    for gradient, fan_in, group, w in zip(gradients, fan_ins, groups, weights, strict=True):
        address = 0 if w is None else w.data_ptr()
        table.extend((*_layout(gradient, fan_in), 1, group, address, 0, 0, 0, 0, 0, 0, 0, 0))
    return table


def _decay_numbers(decays: Iterable[float | Tensor]) -> array[float]:
    return array("d", [n for decay in decays for n in (0, 1, float(decay), 0, 0, 0, 0, 0, 0)])


def _numbers(rule: Rule) -> tuple[float, ...]:
    coupled = 0.0 if rule.decoupled else rule.weight_decay
    shrink = rule.lr * rule.weight_decay if rule.decoupled else 0.0
    sign = -1.0 if rule.maximize else 1.0
    if isinstance(rule, AdamRule):
        return (rule.lr, sign, coupled, shrink, 0.0, 0.0, *rule.betas, rule.eps)
    return (rule.lr, sign, coupled, shrink, rule.momentum, rule.dampening, 0.0, 0.0, 0.0)


def _addresses(tensors: Sequence[Tensor]) -> array[int]:
    return array("q", [x.data_ptr() for x in tensors])


def _call(
    kind: Kind | str,
    dtype: torch.dtype,
    table: array[int],
    tensors: array[int],
    rules: array[float],
    means: Tensor | None = None,
    *,
    at: At = "gradient",
    into: Sequence[Tensor] | None = None,
) -> None:
    """Run the library over gradients, or over what is centered, written in place by default."""
    found = library()
    assert found is not None
    targets = tensors if into is None else _addresses(into)
    found.zeromean_step(
        _KINDS[kind],
        _AT[at],
        TYPES[dtype],
        len(tensors),
        table.buffer_info()[0],
        tensors.buffer_info()[0],
        targets.buffer_info()[0],
        None if means is None else means.data_ptr(),
        rules.buffer_info()[0],
        torch.get_num_threads(),
    )

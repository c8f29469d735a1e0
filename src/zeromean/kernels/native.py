"""The native backend: a small C library, each weight vector centered and stepped while in cache."""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from zeromean.fan_in import FanIn
from zeromean.kernels.layout import layout_of, same_layout
from zeromean.kernels.rules import STATE, AdamRule, At, Decay, Entry, Kind, Rule

# The orders of the enums of centered.c, and of its structures' fields.
_KINDS: dict[Kind | str, int] = {
    name: number
    for number, name in enumerate(("center", "sgd", "momentum", "nesterov", "adam", "amsgrad"))
}
_AT: dict[At, int] = {"gradient": 1, "update": 2}
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
_FIELDS = 14
_STARTS = 13


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library that was built with the package, or None where it was not."""
    path = Path(__file__).with_name("centered.dll" if sys.platform == "win32" else "centered.so")
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    library.zeromean_step.argtypes = [word, word, word, word, pointer, pointer, pointer, word]
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


def serves_center(into: Tensor, gradient: Tensor, fan_in: FanIn, weight: Tensor | None) -> bool:
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
    table, rules = array("q"), array("d", [0.0, 1.0, 0, 0, 0, 0, 0, 0, 0])
    for target, gradient, fan_in, decay in zip(into, gradients, fan_ins, decays, strict=True):
        layout = layout_of(tuple(gradient.shape), gradient.stride(), fan_in)
        assert layout is not None
        weight, group = 0, 0
        if decay is not None:
            weight, group = decay[0].data_ptr(), len(rules) // 9
            rules.extend((0.0, 1.0, float(decay[1]), 0, 0, 0, 0, 0, 0))
        table.extend((*layout, 1, group, weight, target.data_ptr(), 0, 0, 0, 0, 0, 0))
    _call("center", "gradient", gradients[0].dtype, table, _addresses(gradients), rules)
    increment_version(into)


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
        layout = layout_of(tuple(weight.shape), weight.stride(), entry.fan_in)
        assert layout is not None
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
        )

    def _look(self) -> tuple[object, ...]:
        """Where the weights and their state are now, and how the weights lie."""
        weights, states = self._weights, self._states
        where = [[w.data_ptr() for w in weights], [w.stride() for w in weights]]
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
        _call(self._kind, self._at, self._dtype, self._table, _addresses(gradients), numbers)
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


def _describe(gradients: Sequence[Tensor]) -> tuple[object, ...]:
    return (
        [type(g) for g in gradients],
        [g.dtype for g in gradients],
        [g.stride() for g in gradients],
        [g.is_neg() for g in gradients],
    )


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
    at: At,
    dtype: torch.dtype,
    table: array[int],
    gradients: array[int],
    rules: array[float],
) -> None:
    found = library()
    assert found is not None
    found.zeromean_step(
        _KINDS[kind],
        _AT[at],
        TYPES[dtype],
        len(gradients),
        table.buffer_info()[0],
        gradients.buffer_info()[0],
        rules.buffer_info()[0],
        torch.get_num_threads(),
    )

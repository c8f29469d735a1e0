"""Call the native backend, a C library that centers and steps each weight vector in cache."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from zeromean.fan_in import FanIn
from zeromean.kernels import prepared
from zeromean.kernels.prepared import (
    PreparedCenter,
    PreparedMeanKeeper,
    PreparedStep,
    can_center,
    can_step,
    layout,
)
from zeromean.kernels.shared_library import library
from zeromean.kernels.step_spec import At, Decay, Entry, Kind, Number, Rule, decay_numbers, numbers
from zeromean.kernels.tensor_memory import addresses

# The values of the enums of centered.c, and places in its structures.
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


def serves(kind: Kind, entry: Entry, gradient: Tensor) -> bool:
    """Return whether the library can step an entry along a gradient."""
    step = entry.state.get("step")
    return can_step(_known, kind, entry, gradient) and (step is None or step.is_cpu)


def serves_center(
    into: Tensor, gradient: Tensor, fan_in: FanIn | None, weight: Tensor | None
) -> bool:
    """Return whether the library can center a gradient, with a weight that decays inside."""
    return can_center(_known, into, gradient, fan_in, weight)


def is_served(x: Tensor) -> bool:
    """Return whether the library can read and write a tensor as it lies in memory."""
    return prepared.is_plain(x) and _known(x)


def _known(x: Tensor) -> bool:
    return x.is_cpu and x.dtype in TYPES


def center_(
    into: Sequence[Tensor],
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Sequence[Decay | None],
) -> None:
    """Compute ``into = g - mean(g) - lambda mean(w)`` for tensors of one type."""
    weights = [None if decay is None else decay[0] for decay in decays]
    table = _center_table(gradients, fan_ins, range(len(gradients)), weights)
    rules = decay_numbers(0.0 if decay is None else decay[1] for decay in decays)
    _call("center", gradients[0].dtype, table, addresses(gradients), rules, into=into)
    increment_version(into)


class Center(PreparedCenter):
    """Center gradients by the library."""

    def __init__(
        self, entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
    ) -> None:
        super().__init__(entries, gradients, decayed)
        self._dtype = gradients[0].dtype
        # Process the last tensor first: optimizers begin with the first, which is then in cache.
        self._table = _center_table(
            gradients[::-1],
            [entry.fan_in for entry in reversed(entries)],
            [entry.group for entry in reversed(entries)],
            self._weights[::-1],
        )

    def _run(self, gradients: array[int], decays: Sequence[Number]) -> None:
        _call("center", self._dtype, self._table, gradients[::-1], decay_numbers(decays))


class MeanKeeper(PreparedMeanKeeper):
    """Record and restore the means of weights by the library."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(entries, torch.float64)
        self._table = array("q")
        for entry, found, before in zip(entries, self._layouts, self._before, strict=False):
            residual = 0 if entry.residual is None else entry.residual.data_ptr()
            self._table.extend((*found, 1, 0, 0, 0, 0, 0, 0, 0, residual, 0, before))

    def _run(self, kind: str, weights: array[int], means: Tensor) -> None:
        _call(kind, self._weights[0].dtype, self._table, weights, decay_numbers([0.0]), means)


class Step(PreparedStep):
    """Step entries by the library."""

    def __init__(
        self, kind: Kind, at: At, entries: Sequence[Entry], gradients: Sequence[Tensor]
    ) -> None:
        super().__init__(kind, at, entries, gradients)
        self._table = array("q")
        for index, entry in enumerate(entries):
            self._table.extend(self._fields(entry, index))

    def _fields(self, entry: Entry, index: int) -> tuple[int, ...]:
        state = self._states[index]
        running = [state[key].data_ptr() for key in self._keys]
        step = state["step"] if self._kind in ("adam", "amsgrad") else None
        return (
            *layout(entry.weight, entry.fan_in),
            entry.fan_in is not None,
            entry.group,
            entry.weight.data_ptr(),
            *running,
            *([0] * (3 - len(running))),
            0 if step is None else step.data_ptr(),
            step is not None and step.dtype == torch.float64,
            0 if entry.residual is None else entry.residual.data_ptr(),
            index in self._starting,
            0,
        )

    def _run(self, gradients: array[int], rules: Sequence[Rule]) -> None:
        found: list[Number] = []
        for rule in rules:
            lr, sign, coupled, decoupled, *others = numbers(rule)
            found += (lr, sign, coupled, lr * decoupled, *others)
        _call(self._kind, self._dtype, self._table, gradients, found, at=self._at)

    def _started(self) -> None:
        for index in range(len(self._weights)):
            self._table[index * _FIELDS + _STARTS] = 0


def _center_table(
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn | None],
    groups: Iterable[int],
    weights: Sequence[Tensor | None],
) -> array[int]:
    """Return the library's table of gradients to center; without weights nothing decays."""
    table = array("q")
    weights = weights or [None] * len(gradients)
    for gradient, fan_in, group, w in zip(gradients, fan_ins, groups, weights, strict=True):
        address = 0 if w is None else w.data_ptr()
        table.extend((*layout(gradient, fan_in), 1, group, address, 0, 0, 0, 0, 0, 0, 0, 0))
    return table


def _call(
    kind: Kind | str,
    dtype: torch.dtype,
    table: array[int],
    tensors: array[int],
    rules: Iterable[Number],
    means: Tensor | None = None,
    *,
    at: At = "gradient",
    into: Sequence[Tensor] | None = None,
) -> None:
    """Run the library over gradients or other tensors, and write to ``into`` or in place."""
    found = library()
    assert found is not None
    targets = tensors if into is None else addresses(into)
    numbers_of_rules = array("d", map(float, rules))
    found.zeromean_step(
        _KINDS[kind],
        _AT[at],
        TYPES[dtype],
        len(tensors),
        table.buffer_info()[0],
        tensors.buffer_info()[0],
        targets.buffer_info()[0],
        None if means is None else means.data_ptr(),
        numbers_of_rules.buffer_info()[0],
        torch.get_num_threads(),
    )

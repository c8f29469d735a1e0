"""The parts that compiled backends share: checks of which tensors they serve, and prepared steps.

A compiled backend works on addresses. A table of them is built once. Before each use the tensors
are compared with those that the table was built for, so that a kernel never reads or writes memory
that a tensor no longer owns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import reference
from zeromean.kernels.checks import has_own_class
from zeromean.kernels.layout import Layout, layout_of, same_layout
from zeromean.kernels.step_spec import STATE, At, Entry, Kind, Number, Rule
from zeromean.kernels.tensor_memory import Memory, changed_since, has_repeats, versions

# Whether a backend knows a tensor's type and device.
Known = Callable[[Tensor], bool]

# A step or centering of given gradients. It must run before anything else touches their tensors.
RunStep = Callable[[Sequence[Rule]], None]
RunCenter = Callable[[Sequence[Number]], None]


def can_step(known: Known, kind: Kind, entry: Entry, gradient: Tensor) -> bool:
    """Return whether one kernel can step an entry that :func:`check_step` accepts."""
    weight, step, residual = entry.weight, entry.state.get("step"), entry.residual
    state = [entry.state[key] for key in STATE[kind] if entry.state.get(key) is not None]
    return (
        is_plain(weight)
        and known(weight)
        and is_plain(gradient)
        and (gradient.dtype, gradient.device) == (weight.dtype, weight.device)
        and (found := _layout(weight, entry.fan_in)) is not None
        and all(is_plain(x) and _alike(x, weight) for x in state)
        and (step is None or (is_plain(step) and step.dtype in (torch.float32, torch.float64)))
        and (residual is None or _is_residual(residual, found, weight.device))
    )


def can_center(
    known: Known, into: Tensor, gradient: Tensor, fan_in: FanIn | None, weight: Tensor | None
) -> bool:
    """Return whether one kernel can center a gradient, with a weight that decays inside."""
    others = (into,) if weight is None else (into, weight)
    return (
        is_plain(gradient)
        and known(gradient)
        and _layout(gradient, fan_in) is not None
        and all(is_plain(x) and _alike(x, gradient) for x in others)
    )


def layout(x: Tensor, fan_in: FanIn | None) -> Layout:
    """Return the layout of a tensor that is served."""
    found = _layout(x, fan_in)
    assert found is not None
    return found


def _layout(x: Tensor, fan_in: FanIn | None) -> Layout | None:
    return layout_of(tuple(x.shape), x.stride(), fan_in)


def is_plain(x: Tensor) -> bool:
    """Return whether ``x`` is dense, of torch's own class, and not lazily negated."""
    return has_own_class(x) and not x.is_neg()


def _alike(x: Tensor, y: Tensor) -> bool:
    return (x.dtype, x.device, x.shape) == (y.dtype, y.device, y.shape) and same_layout(
        x.stride(), y.stride(), tuple(y.shape)
    )


def _is_residual(x: Tensor, found: Layout, device: torch.device) -> bool:
    expected = torch.float32, device, found.outer * found.inner
    return is_plain(x) and x.is_contiguous() and (x.dtype, x.device, x.numel()) == expected


class PreparedCenter(ABC):
    """Center gradients of one type in place, at every step.

    Args:
        entries: The parameters of the gradients, which the backend serves.
        gradients: A gradient per entry, to learn how they lie in memory.
        decayed: Whether ``lambda w`` may belong inside the projection.
    """

    def __init__(
        self, entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
    ) -> None:
        self._weights = [entry.weight for entry in entries] if decayed else []
        self._groups = 1 + max(entry.group for entry in entries)
        self._held = Memory(self._weights, fixed=True)
        self._passed = Memory(gradients, fixed=False)

    def bind(self, gradients: Sequence[Tensor]) -> RunCenter | None:
        """Return the centering of these gradients, or None if a tensor changed or two share memory.

        The returned function takes each group's decay, and must run at once.
        """
        found = self._passed.addresses(gradients)
        if found is None or has_repeats(found) or self._held.addresses(self._weights) is None:
            return None
        return partial(self._center, gradients, found)

    def _center(
        self, gradients: Sequence[Tensor], found: array[int], decays: Sequence[Number]
    ) -> None:
        _check_groups(decays, self._groups)
        self._run(found, decays if self._weights else [0.0] * len(decays))
        increment_version(gradients)

    @abstractmethod
    def _run(self, gradients: array[int], decays: Sequence[Number]) -> None:
        """Center the gradients at these addresses, with each group's decay."""


class PreparedMeanKeeper(ABC):
    """Record the means of weights of one type before a step, and restore them after it.

    Args:
        entries: The weights, which the backend serves, and the rounding errors of their means.
        means: Type of the recorded means.
    """

    def __init__(self, entries: Sequence[Entry], means: torch.dtype) -> None:
        self._entries = entries
        self._weights = [entry.weight for entry in entries]
        self._layouts = [layout(entry.weight, entry.fan_in) for entry in entries]
        self._held = Memory(self._weights, fixed=True)
        self._means = means
        self._before = [0]  # number of vectors in the weights before each one
        for found in self._layouts:
            self._before.append(self._before[-1] + found.outer * found.inner)

    def record(self) -> tuple[Tensor, list[int]] | None:
        """Return all means and the weights' versions, or None if a weight moved or changed."""
        found = self._held.addresses(self._weights)
        if found is None:
            return None
        recorded = torch.empty(self._before[-1], dtype=self._means, device=self._weights[0].device)
        self._run("note", found, recorded)
        return recorded, versions(self._weights)

    def restore(self, recorded: tuple[Tensor, list[int]]) -> None:
        """Give every weight vector its recorded mean."""
        means, before = recorded
        found = self._held.addresses(self._weights)
        if found is not None:
            self._run("keep", found, means)
            increment_version(changed_since(before, self._weights))
        else:  # the step moved its weights to other memory
            lengths = [end - start for start, end in pairwise(self._before)]
            split = torch.split(means, lengths)
            reference.MeanKeeper(self._entries).restore((split, before))

    @abstractmethod
    def _run(self, kind: str, weights: array[int], means: Tensor) -> None:
        """Record or restore the means of the weights at these addresses."""


class PreparedStep(ABC):
    """Step entries of one type; their addresses are collected once.

    Args:
        kind: Kind of step.
        at: Whether the gradient or the whole update is centered.
        entries: The parameters to step, which the backend serves.
        gradients: A gradient per entry, to learn how they lie in memory.
    """

    def __init__(
        self, kind: Kind, at: At, entries: Sequence[Entry], gradients: Sequence[Tensor]
    ) -> None:
        self._kind, self._at, self._dtype = kind, at, entries[0].weight.dtype
        self._weights = [entry.weight for entry in entries]
        self._residuals = [entry.residual for entry in entries]  # their addresses are in the table
        self._groups = 1 + max(entry.group for entry in entries)
        self._keys = STATE[kind]
        # The state of entries whose momentum is still empty. Their first step adds it, so that an
        # optimizer whose step is prepared but not made sees no momentum.
        self._starting = {
            n: entry.state
            for n, entry in enumerate(entries)
            if self._keys == ("momentum_buffer",) and entry.state.get("momentum_buffer") is None
        }
        self._states = [
            {"momentum_buffer": torch.zeros_like(entry.weight)}
            if n in self._starting
            else entry.state
            for n, entry in enumerate(entries)
        ]
        self._held = Memory(self._find(), fixed=True)
        self._passed = Memory(gradients, fixed=False)
        # A gradient that is laid out differently from its weight is copied first, at each step.
        self._relaid = [
            index
            for index, (w, g) in enumerate(zip(self._weights, gradients, strict=True))
            if not same_layout(w.stride(), g.stride(), tuple(w.shape))
        ]

    def _find(self) -> list[Tensor]:
        """Return the weights and their state as it is now."""
        counted = self._kind in ("adam", "amsgrad")
        found = [*self._weights]
        for key in (*self._keys, "step") if counted else self._keys:
            found += map(itemgetter(key), self._states)
        return found

    def bind(self, gradients: Sequence[Tensor]) -> RunStep | None:
        """Return the step along these gradients, or None if a tensor moved or changed.

        The returned function takes each group's rule, and must run at once.
        """
        try:
            held = self._find()
        except KeyError:  # a buffer was removed
            return None
        if any(state.get("momentum_buffer") is not None for state in self._starting.values()):
            return None  # a buffer was loaded
        found = self._passed.addresses(gradients)
        if found is None or self._held.addresses(held) is None:
            return None
        return partial(self._step, gradients, found)

    def _step(self, gradients: Sequence[Tensor], found: array[int], rules: Sequence[Rule]) -> None:
        _check_groups(rules, self._groups)
        copies = {n: torch.empty_like(self._weights[n]).copy_(gradients[n]) for n in self._relaid}
        for n, copy in copies.items():
            found[n] = copy.data_ptr()
        self._run(found, rules)
        increment_version(self._weights)
        if self._starting:
            for n, state in self._starting.items():
                state.update(self._states[n])
                self._states[n] = state
            self._starting = {}
            self._started()

    @abstractmethod
    def _run(self, gradients: array[int], rules: Sequence[Rule]) -> None:
        """Step every entry along the gradient at its address, by its group's rule."""

    @abstractmethod
    def _started(self) -> None:
        """Record in the table that no momentum is empty anymore."""


def _check_groups(given: Sequence[Any], needed: int) -> None:
    if len(given) < needed:
        raise ZeromeanError(
            f"the step got the options of {len(given)} param groups; its entries name {needed}",
            "Pass one rule per param group",
        )

"""The parts that compiled backends share: checks of what they serve, and prepared work.

A compiled backend works on addresses. A table of them is built once. Before each use the tensors
are compared with those that the table was built for, so that a kernel never reads or writes memory
that a tensor no longer owns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, UntypedStorage
from torch.autograd.graph import increment_version

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import reference
from zeromean.kernels.checks import has_own_class
from zeromean.kernels.layout import Layout, layout_of, same_layout
from zeromean.kernels.step_spec import STATE, At, Entry, Kind, Number, Rule

TensorGuards: Any
try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # torch's own module; without it the test in Python is slower
    TensorGuards = None

# Whether a backend knows a tensor's type and device.
Known = Callable[[Tensor], bool]

# Work on given gradients that is ready to run; it must run before anything else touches a tensor.
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
    """Return whether ``x`` is a dense tensor of torch's own class, stored as it reads."""
    return has_own_class(x) and not x.is_neg()


def _alike(x: Tensor, y: Tensor) -> bool:
    return (x.dtype, x.device, x.shape) == (y.dtype, y.device, y.shape) and same_layout(
        x.stride(), y.stride(), tuple(y.shape)
    )


def _is_residual(x: Tensor, found: Layout, device: torch.device) -> bool:
    vectors = found.outer * found.inner
    return is_plain(x) and x.is_contiguous() and (
        (x.dtype, x.device, x.numel()) == (torch.float32, device, vectors)
    )  # fmt: skip


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Return the address of each tensor's first entry."""
    return [*map(Tensor.data_ptr, tensors)]


def storage_sizes(tensors: Sequence[Tensor]) -> list[int]:
    """Return the size of each tensor's storage in bytes."""
    return [*map(UntypedStorage.nbytes, map(Tensor.untyped_storage, tensors))]


def same_as(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Return a test that other tensors have the types, devices, shapes and strides of these.

    torch's guards of compiled functions test all of that in one call. They refuse a tensor that is
    passed twice.
    """
    if TensorGuards is not None and len({*map(id, tensors)}) == len(tensors):
        guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        return cast(Callable[..., bool], guards.check)
    found = _describe(tensors)
    return lambda *others: _describe(others) == found


def _describe(tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    return [
        (type(x), x.dtype, x.device, x.layout, x.shape, x.stride(), x.is_neg()) for x in tensors
    ]


class _Memory:
    """Places of tensors in memory, as they were when a table was built.

    Args:
        tensors: The tensors.
        fixed: Whether the table holds their addresses; otherwise these are passed at each use.
        sized: Number of them, the first ones, whose storage is compared too (default all). A
            storage that is resized once moves; twice, it may come back smaller.
    """

    def __init__(self, tensors: Sequence[Tensor], fixed: bool, sized: int | None = None) -> None:
        self._alike = same_as(tensors)
        self._sized = sized
        self._addresses = addresses(tensors) if fixed else None
        self._sizes = storage_sizes(tensors[:sized])

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether these tensors lie in memory as the first ones did."""
        return (
            self._alike(*tensors)
            and (self._addresses is None or addresses(tensors) == self._addresses)
            and storage_sizes(tensors[: self._sized]) == self._sizes
        )


class PreparedCenter(ABC):
    """Center gradients of one type in place, at every step.

    Args:
        entries: The parameters of the gradients; all served.
        gradients: A gradient per entry, to learn how they lie in memory.
        decayed: Whether ``lambda w`` may belong inside the projection.
    """

    def __init__(
        self, entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
    ) -> None:
        self._weights = [entry.weight for entry in entries] if decayed else []
        self._groups = 1 + max(entry.group for entry in entries)
        self._held = _Memory(self._weights, fixed=True)
        self._passed = _Memory(gradients, fixed=False)

    def bind(self, gradients: Sequence[Tensor]) -> RunCenter | None:
        """Return the centering of these gradients, or None if a tensor moved or changed.

        The returned function takes each group's decay, and must run at once.
        """
        unchanged = self._held.holds(self._weights) and self._passed.holds(gradients)
        return partial(self._center, gradients) if unchanged else None

    def _center(self, gradients: Sequence[Tensor], decays: Sequence[Number]) -> None:
        _check_groups(decays, self._groups)
        self._run(gradients, decays if self._weights else [0.0] * len(decays))
        increment_version(gradients)

    @abstractmethod
    def _run(self, gradients: Sequence[Tensor], decays: Sequence[Number]) -> None:
        """Center, with each group's decay."""


class PreparedMeanKeeper(ABC):
    """Record the means of weights of one type before a step, and restore them after it.

    Args:
        entries: The weights and the rounding errors of their means so far; all served.
        means: Type of the recorded means.
    """

    def __init__(self, entries: Sequence[Entry], means: torch.dtype) -> None:
        self._entries = entries
        self._weights = [entry.weight for entry in entries]
        self._layouts = [layout(entry.weight, entry.fan_in) for entry in entries]
        self._held = _Memory(self._weights, fixed=True)
        self._means = means
        self._before = [0]  # number of vectors in the weights before each one
        for found in self._layouts:
            self._before.append(self._before[-1] + found.outer * found.inner)

    def record(self) -> Tensor | None:
        """Return the mean of every weight vector, or None if a weight moved or changed."""
        if not self._held.holds(self._weights):
            return None
        recorded = torch.empty(self._before[-1], dtype=self._means, device=self._weights[0].device)
        self._run("note", recorded)
        return recorded

    def restore(self, recorded: Tensor) -> None:
        """Give every weight vector its recorded mean."""
        if self._held.holds(self._weights):
            self._run("keep", recorded)
            increment_version(self._weights)
        else:  # the step moved its weights to other memory
            lengths = [end - start for start, end in pairwise(self._before)]
            reference.MeanKeeper(self._entries).restore(torch.split(recorded, lengths))

    @abstractmethod
    def _run(self, kind: str, means: Tensor) -> None:
        """Record or restore the means."""


class PreparedStep(ABC):
    """Step entries of one type; their addresses are collected once.

    Args:
        kind: Kind of step.
        at: Whether the gradient or the whole update is centered.
        entries: The parameters to step; all served.
        gradients: A gradient per entry, to learn how they lie in memory.
    """

    def __init__(
        self, kind: Kind, at: At, entries: Sequence[Entry], gradients: Sequence[Tensor]
    ) -> None:
        self._kind, self._at, self._dtype = kind, at, entries[0].weight.dtype
        self._weights = [entry.weight for entry in entries]
        self._states = [entry.state for entry in entries]
        self._residuals = [entry.residual for entry in entries]  # their addresses are in the table
        self._groups = 1 + max(entry.group for entry in entries)
        self._keys = STATE[kind]
        # Entries whose momentum is still empty.
        self._starting = [n for n, entry in enumerate(entries) if _start(entry, self._keys)]
        self._held = _Memory(self._find(), True, len(entries) * (1 + len(self._keys)))
        self._passed = _Memory(gradients, fixed=False)
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
            found += [state[key] for state in self._states]
        return found

    def bind(self, gradients: Sequence[Tensor]) -> RunStep | None:
        """Return the step along these gradients, or None if a tensor moved or changed.

        The returned function takes each group's rule, and must run at once.
        """
        try:
            found = self._find()
        except KeyError:  # a buffer was removed
            return None
        unchanged = self._held.holds(found) and self._passed.holds(gradients)
        return partial(self._step, gradients) if unchanged else None

    def _step(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        _check_groups(rules, self._groups)
        if self._relaid:
            gradients = list(gradients)
            for index in self._relaid:
                gradients[index] = torch.empty_like(self._weights[index]).copy_(gradients[index])
        self._run(gradients, rules)
        increment_version(self._weights)
        if self._starting:
            self._starting = []
            self._started()

    @abstractmethod
    def _run(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Step every entry along its gradient by its group's rule."""

    @abstractmethod
    def _started(self) -> None:
        """Note that no momentum is empty any more."""


def _check_groups(given: Sequence[Any], needed: int) -> None:
    if len(given) < needed:
        raise ZeromeanError(
            f"the step got the options of {len(given)} param groups; its entries name {needed}",
            "Pass one rule per param group",
        )


def _start(entry: Entry, keys: tuple[str, ...]) -> bool:
    """Create the momentum that torch creates at the first step; return whether it is empty."""
    if keys != ("momentum_buffer",) or entry.state.get("momentum_buffer") is not None:
        return False
    entry.state["momentum_buffer"] = torch.zeros_like(entry.weight)
    return True

"""What the compiled backends share: which tensors they serve, and work made ready once.

A compiled backend is told addresses. They are collected once, and looked at before every run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from zeromean.fan_in import FanIn
from zeromean.kernels import reference
from zeromean.kernels.layout import Layout, layout_of, same_layout
from zeromean.kernels.step_spec import STATE, At, Entry, Kind, Number

# Whether a backend knows a tensor's type and device.
Known = Callable[[Tensor], bool]


def can_step(known: Known, kind: Kind, entry: Entry, gradient: Tensor) -> bool:
    """Whether an entry and its state lie in memory so that one kernel can step it."""
    weight, step = entry.weight, entry.state.get("step")
    state = [entry.state[key] for key in STATE[kind] if entry.state.get(key) is not None]
    return (
        plain(weight)
        and known(weight)
        and plain(gradient)
        and (gradient.dtype, gradient.device) == (weight.dtype, weight.device)
        and _layout(weight, entry.fan_in) is not None
        and all(plain(x) and _alike(x, weight) for x in state)
        and (step is None or (plain(step) and step.dtype in (torch.float32, torch.float64)))
    )


def can_center(
    known: Known, into: Tensor, gradient: Tensor, fan_in: FanIn | None, weight: Tensor | None
) -> bool:
    """Whether one kernel can center this gradient, with what decays inside the projection."""
    others = (into,) if weight is None else (into, weight)
    return (
        plain(gradient)
        and known(gradient)
        and _layout(gradient, fan_in) is not None
        and all(plain(x) and _alike(x, gradient) for x in others)
    )


def layout(x: Tensor, fan_in: FanIn | None) -> Layout:
    """The layout of a tensor that is served."""
    found = _layout(x, fan_in)
    assert found is not None
    return found


def _layout(x: Tensor, fan_in: FanIn | None) -> Layout | None:
    return layout_of(tuple(x.shape), x.stride(), fan_in)


def plain(x: Tensor) -> bool:
    """Whether this is a dense tensor of torch's own class, read as it lies in memory."""
    return (
        (type(x) is Tensor or type(x) is nn.Parameter)
        and x.layout is torch.strided
        and not x.is_neg()
    )


def _alike(x: Tensor, y: Tensor) -> bool:
    return (x.dtype, x.device) == (y.dtype, y.device) and same_layout(
        x.stride(), y.stride(), tuple(y.shape)
    )


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Where tensors are."""
    return [x.data_ptr() for x in tensors]


def _where(weights: Sequence[Tensor]) -> tuple[object, ...]:
    """Where weights are and how they lie."""
    return (addresses(weights), _describe(weights))


def _describe(tensors: Sequence[Tensor]) -> tuple[object, ...]:
    """How tensors lie in memory; of dense ones, strides and numbers of entries tell the shapes."""
    return (
        [*map(type, tensors)],
        [x.dtype for x in tensors],
        [*map(Tensor.get_device, tensors)],
        [*map(Tensor.numel, tensors)],
        [*map(Tensor.stride, tensors)],
        [*map(Tensor.is_neg, tensors)],
    )


class PreparedCenter(ABC):
    """The centering of gradients of one type, in place, again and again.

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

    def is_valid(self, gradients: Sequence[Tensor]) -> bool:
        """Whether weights are still where they were and gradients lie as they did."""
        try:
            return (_where(self._weights), _describe(gradients)) == self._found
        except RuntimeError:
            return False  # a sparse gradient has no address

    def run(self, gradients: Sequence[Tensor], decays: Sequence[Number]) -> None:
        """Center every gradient, with its group's decay inside the projection."""
        self._run(gradients, decays if self._weights else [0.0] * len(decays))
        increment_version(gradients)

    @abstractmethod
    def _run(self, gradients: Sequence[Tensor], decays: Sequence[Number]) -> None:
        """Center, with each group's decay."""


class PreparedMeanKeeper(ABC):
    """Notes down the means of weights of one type before a step, and puts them back after it.

    Args:
        entries: The weights, and what rounding took from their means so far; all served.
        means: The type that means are noted down in.
    """

    def __init__(self, entries: Sequence[Entry], means: torch.dtype) -> None:
        self._entries = entries
        self._weights = [entry.weight for entry in entries]
        self._found = _where(self._weights)
        self._means = means
        self._layouts = [layout(entry.weight, entry.fan_in) for entry in entries]
        self._before = [0]  # how many vectors the weights before one hold
        for found in self._layouts:
            self._before.append(self._before[-1] + found.outer * found.inner)

    def is_valid(self) -> bool:
        """Whether the weights are still where they were, and lie as they did."""
        try:
            return _where(self._weights) == self._found
        except RuntimeError:
            return False

    def record(self) -> Tensor:
        """The mean of every weight vector."""
        noted = torch.empty(self._before[-1], dtype=self._means, device=self._weights[0].device)
        self._run("note", noted)
        return noted

    def restore(self, noted: Tensor) -> None:
        """Give every weight vector the mean that was noted down."""
        if self.is_valid():
            self._run("keep", noted)
            increment_version(self._weights)
        else:  # the step moved its weights to other memory
            lengths = [end - start for start, end in pairwise(self._before)]
            reference.MeanKeeper(self._entries).restore(torch.split(noted, lengths))

    @abstractmethod
    def _run(self, kind: str, means: Tensor) -> None:
        """Note down, or keep."""


class PreparedStep:
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
        # Of which entries the momentum is still empty.
        self._starting = [n for n, entry in enumerate(entries) if _start(entry, self._keys)]
        self._found = self._look()
        self._gradients_found = _describe(gradients)
        # A gradient that lies otherwise than its weight is copied first, at each step.
        self._relaid = [
            index
            for index, (w, g) in enumerate(zip(self._weights, gradients, strict=True))
            if not same_layout(w.stride(), g.stride(), tuple(w.shape))
        ]

    def _look(self) -> tuple[object, ...]:
        """Where the weights and their state are now, and how the weights lie."""
        weights, states = self._weights, self._states
        where = [addresses(weights), [*map(Tensor.stride, weights)]]
        keys = (*self._keys, "step") if self._kind in ("adam", "amsgrad") else self._keys
        where += [[state[key].data_ptr() for state in states] for key in keys]
        return (*where, weights[0].dtype)

    def is_valid(self, gradients: Sequence[Tensor]) -> bool:
        """Whether everything is still where it was and gradients lie as they did."""
        try:
            return self._look() == self._found and _describe(gradients) == self._gradients_found
        except (RuntimeError, KeyError, AttributeError):
            return False  # a sparse gradient has no address; a buffer was taken away

    def _laid_as_weights(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        if self._relaid:
            gradients = list(gradients)
            for index in self._relaid:
                gradients[index] = torch.empty_like(self._weights[index]).copy_(gradients[index])
        return gradients


def _start(entry: Entry, keys: tuple[str, ...]) -> bool:
    """Make the momentum that torch makes at the first step; say whether it is empty."""
    if keys != ("momentum_buffer",) or entry.state.get("momentum_buffer") is not None:
        return False
    entry.state["momentum_buffer"] = torch.zeros_like(entry.weight)
    return True

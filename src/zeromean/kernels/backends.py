"""Choose the backend that carries out each step, centering or restoring of means."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import cpu_backend, reference, triton_backend
from zeromean.kernels.checks import (
    check_fan_in,
    check_shape,
    check_step,
    check_storage,
    has_own_class,
    reach,
)
from zeromean.kernels.prepared import RunCenter, RunStep
from zeromean.kernels.shared_library import library
from zeromean.kernels.step_spec import At, Decay, Entry, Kind

Backend = Literal["reference", "native", "triton"]
VARIABLE = "ZEROMEAN_KERNELS"


def backend(device: str | torch.device = "cpu") -> Backend:
    """Return the backend that serves a device.

    The compiled backends serve the types and memory layouts that they know; the reference serves
    all others.

    Args:
        device: Device, as torch names it (default "cpu").

    Returns:
        "native" on the CPU if the library was built with the package, "triton" on a CUDA device
        that Triton supports, else "reference".

    Raises:
        ZeromeanError: ``ZEROMEAN_KERNELS`` names no backend, or one that is not available.

    Example:
        >>> from zeromean import kernels
        >>> kernels.backend("meta")
        'reference'
    """
    forced = os.environ.get(VARIABLE)
    if forced not in (None, "", "reference", "native", "triton"):
        raise ZeromeanError(
            f"{VARIABLE}={forced} is not one of reference, native or triton",
            f"Set {VARIABLE} to one of these, or unset it",
        )
    if forced == "native" and library() is None:
        raise ZeromeanError(
            f"{VARIABLE}=native, but the library was not built, is damaged, or was built from other"
            " sources",
            "Install a wheel, or install a C compiler and reinstall zeromean",
        )
    if forced == "triton" and not triton_backend.installed():
        raise ZeromeanError(
            f"{VARIABLE}=triton, but Triton is not installed",
            "Install a CUDA build of torch, or triton",
        )
    here = torch.device(device)
    if forced == "triton" or (not forced and here.type == "cuda"):
        return "triton" if triton_backend.runs_on(here) else "reference"
    if here.type != "cpu" or forced == "reference" or library() is None:
        return "reference"
    return "native"


class _Served(NamedTuple):
    """The work that one compiled backend does in one call."""

    by: ModuleType  # cpu_backend or triton_backend
    device: torch.device
    dtype: torch.dtype
    kind: Kind | None = None


class _Compiled(dict[torch.device, ModuleType | None]):
    """The compiled backend that serves each device, or None; looked up once per call."""

    def __missing__(self, device: torch.device) -> ModuleType | None:
        self[device] = {"native": cpu_backend, "triton": triton_backend}.get(backend(device))
        return self[device]


class Step(Protocol):
    """A step of many tensors that is set up once."""

    def bind(self, gradients: Sequence[Tensor]) -> RunStep | None:
        """Return the step along these gradients, or None if it must be prepared again."""


class Center(Protocol):
    """A centering of many gradients in place that is set up once."""

    def bind(self, gradients: Sequence[Tensor]) -> RunCenter | None:
        """Return the centering of these gradients, or None if it must be prepared again."""


class MeanKeeper(Protocol):
    """Keep the means of many weights through another optimizer's step."""

    def record(self) -> Any | None:
        """Return the mean of every weight vector, or None if it must be prepared again."""

    def restore(self, recorded: Any) -> None:
        """Give every vector that moved its recorded mean."""


class Part(NamedTuple):
    """The entries of a step that one backend carries out."""

    step: Step
    indices: list[int]


class CenterPart(NamedTuple):
    """The gradients that one backend centers."""

    center: Center
    indices: list[int]


def prepare(
    kinds: Sequence[Kind], at: At, entries: Sequence[Entry], gradients: Sequence[Tensor]
) -> list[Part]:
    """Set up one centered step of many parameters.

    Args:
        kinds: Kind of step of each param group.
        at: "gradient" (the step sees centered gradients) or "update" (the whole change of the
            weights is centered).
        entries: The parameters; each names its group.
        gradients: A gradient per entry. They are only read.

    Returns:
        The parts that together make the step, in order. A parameter that is listed twice is in two
        of them and is stepped twice, as torch does; so are parameters that share memory.

    Raises:
        ZeromeanError: A gradient or state tensor has another shape than its weight, or a storage is
            too small.
    """
    compiled = _Compiled()
    found: list[_Served | None] = []
    for entry, gradient in zip(entries, gradients, strict=True):
        kind, weight = kinds[entry.group], entry.weight
        check_step(kind, entry, gradient)
        by = compiled[weight.device]
        serves = by is not None and by.serves(kind, entry, gradient)
        found.append(_Served(by, weight.device, weight.dtype, kind) if by and serves else None)
    steps = []
    for served, indices in _split(found, [entry.weight for entry in entries]):
        chosen = [entries[index] for index in indices]
        step: Step = reference.Step(at, chosen, kinds)
        if served is not None:
            step = served.by.Step(served.kind, at, chosen, [gradients[index] for index in indices])
        steps.append(Part(step, indices))
    return steps


def prepare_center(
    entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
) -> list[CenterPart]:
    """Set up the centering of many gradients in place.

    Args:
        entries: The parameters of the gradients; their fan-in axes, groups and, with ``decayed``,
            weights are used.
        gradients: A gradient per entry.
        decayed: Whether ``lambda w`` of a group may belong inside the projection.

    Returns:
        The parts that together center them all.

    Raises:
        ZeromeanError: As :func:`prepare`.
    """
    compiled = _Compiled()
    found = [
        _centered_by(compiled, gradient, gradient, entry.fan_in, entry.weight if decayed else None)
        for entry, gradient in zip(entries, gradients, strict=True)
    ]
    centers = []
    for served, indices in _split(found, gradients):
        chosen = [entries[index] for index in indices]
        center: Center = reference.Center(chosen, decayed)
        if served is not None:
            center = served.by.Center(chosen, [gradients[index] for index in indices], decayed)
        centers.append(CenterPart(center, indices))
    return centers


def _centered_by(
    compiled: _Compiled,
    into: Tensor,
    gradient: Tensor,
    fan_in: FanIn | None,
    weight: Tensor | None,
) -> _Served | None:
    check_fan_in(fan_in, gradient)
    if weight is not None:
        check_shape("a gradient", gradient, weight)
        check_storage(weight)
    check_storage(gradient, into)
    by = compiled[gradient.device]
    if by is None or not by.serves_center(into, gradient, fan_in, weight):
        return None
    return _Served(by, gradient.device, gradient.dtype)


def prepare_mean_keeper(entries: Sequence[Entry]) -> list[MeanKeeper]:
    """Set up keeping the means of many weights through another optimizer's steps.

    Args:
        entries: The weights; their fan-in axes and residuals are used.

    Returns:
        The keepers that together keep them all.

    Raises:
        ZeromeanError: A storage is too small.
    """
    compiled = _Compiled()
    weights = [entry.weight for entry in entries]
    found = [
        _centered_by(compiled, weight, weight, entry.fan_in, None)
        for weight, entry in zip(weights, entries, strict=True)
    ]
    return [
        (reference if served is None else served.by).MeanKeeper([entries[n] for n in indices])
        for served, indices in _split(found, weights)
    ]


def _split(
    found: Sequence[_Served | None], written: Sequence[Tensor]
) -> list[tuple[_Served | None, list[int]]]:
    """Group tensors by the backend that serves them; those that share memory are kept apart.

    A backend writes the tensors of one group in any order, or at the same time.
    """
    # Each tensor's first address, the address behind it, and its index.
    spans = [
        (x.data_ptr(), x.data_ptr() + reach(x) * x.element_size(), index)
        if has_own_class(x)
        else (id(x), id(x) + 1, index)  # only the same object is recognized
        for index, x in enumerate(written)
    ]
    turns = [0] * len(written)
    sharing: list[int] = []
    end = 0
    for start, stop, index in sorted(spans):
        sharing = [*sharing, index] if start < end else [index]
        end = max(end, stop)
        for turn, other in enumerate(sorted(sharing)):
            turns[other] = turn
    parts: dict[tuple[int, _Served | None], list[int]] = {}
    for index, key in enumerate(zip(turns, found, strict=True)):
        parts.setdefault(key, []).append(index)
    in_turn = sorted(parts.items(), key=lambda part: part[0][0])
    return [(served, indices) for (_, served), indices in in_turn]


def center_(
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Iterable[Decay | None] | None = None,
    into: Sequence[Tensor] | None = None,
) -> None:
    r"""Subtract the mean from every weight vector of many tensors: :math:`P g`.

    With coupled decay the result is :math:`g - \operatorname{mean}(g + \lambda w)`; an optimizer
    that adds :math:`\lambda w` then sees :math:`P(g + \lambda w)`.

    Args:
        gradients: Floating-point or complex tensors of any shapes.
        fan_ins: Fan-in axes of each.
        decays: Per gradient a weight of its shape and its lambda, or None; None (default) means no
            decay at all.
        into: Per gradient a tensor of its shape to write to; None (default) writes in place.

    Raises:
        ZeromeanError: The lists differ in length, a weight or a target differs in shape from its
            gradient, a storage is too small, or autograd would have to record the result.

    Example:
        >>> import torch
        >>> from zeromean import FanIn, kernels
        >>> gradient = torch.tensor([[1.0, 2.0, 6.0]])
        >>> kernels.center_([gradient], [FanIn(axes=(1,))])
        >>> gradient
        tensor([[-2., -1.,  3.]])
    """
    into = gradients if into is None else into
    decays = [None] * len(gradients) if decays is None else list(decays)
    lengths = len(gradients), len(fan_ins), len(decays), len(into)
    if len({*lengths}) > 1:
        raise ZeromeanError(
            "center_ got {} gradients, {} fan-in axes, {} decays and {} targets".format(*lengths),
            "Pass one of each per gradient",
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*gradients, *into)):
        raise ZeromeanError(
            "center_ got a tensor that requires a gradient, but autograd does not record it",
            "Use zeromean.center, which autograd follows, or torch.no_grad()",
        )
    compiled = _Compiled()
    found = []
    for index, decay in enumerate(decays):
        weight = None if decay is None else decay[0]
        if into[index].shape != gradients[index].shape:
            raise ZeromeanError(
                f"target {index} of center_ has the shape {tuple(into[index].shape)}, but its"
                f" gradient has the shape {tuple(gradients[index].shape)}",
                "Pass targets of the shapes of their gradients",
            )
        found.append(_centered_by(compiled, into[index], gradients[index], fan_ins[index], weight))
    for served, indices in _split(found, into):
        with torch.no_grad():  # a weight that decays may require a gradient
            (reference if served is None else served.by).center_(
                [into[i] for i in indices],
                [gradients[i] for i in indices],
                [fan_ins[i] for i in indices],
                [decays[i] for i in indices],
            )

"""Which backend carries out what."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import cpu_backend, reference, triton_backend
from zeromean.kernels.step_spec import At, Decay, Entry, Kind, Rule

Backend = Literal["reference", "native", "triton"]
VARIABLE = "ZEROMEAN_KERNELS"


def backend(device: str | torch.device = "cpu") -> Backend:
    """The backend that serves a device.

    It serves the types and memory layouts that it knows; what it does not know goes to the
    reference, whichever backend is in use.

    Args:
        device: A device, as torch names it (default "cpu").

    Returns:
        "native" on the CPU where the library was built with the package, "triton" on a CUDA device
        that Triton runs on, else "reference".

    Raises:
        ZeromeanError: ``ZEROMEAN_KERNELS`` names no backend, or one that is not here.

    Example:
        >>> from zeromean import kernels
        >>> kernels.backend("meta")
        'reference'
    """
    forced = os.environ.get(VARIABLE)
    if forced not in (None, "", "reference", "native", "triton"):
        raise ZeromeanError(
            f"{VARIABLE}={forced}",
            "reference, native or triton",
            f"set {VARIABLE} to one of these",
        )
    if forced == "native" and cpu_backend.library() is None:
        raise ZeromeanError(
            f"{VARIABLE}=native where the library was not built, or from other sources",
            "an installation that found a C compiler",
            "install a wheel, or a C compiler and zeromean again",
        )
    if forced == "triton" and not triton_backend.installed():
        raise ZeromeanError(
            f"{VARIABLE}=triton where Triton is not installed",
            "Triton, which CUDA builds of torch bring",
            "install a CUDA build of torch, or triton",
        )
    here = torch.device(device)
    if forced == "triton" or (not forced and here.type == "cuda"):
        return "triton" if triton_backend.runs_on(here) else "reference"
    if here.type != "cpu" or forced == "reference" or cpu_backend.library() is None:
        return "reference"
    return "native"


class _Served(NamedTuple):
    """What one compiled backend carries out in one call."""

    by: ModuleType  # native or triton, which have serves, serves_center, center_ and the classes
    device: torch.device
    dtype: torch.dtype
    kind: Kind | None = None


class _Compiled(dict[torch.device, ModuleType | None]):
    """The compiled backend that serves each device, or None, looked up once a call."""

    def __missing__(self, device: torch.device) -> ModuleType | None:
        self[device] = {"native": cpu_backend, "triton": triton_backend}.get(backend(device))
        return self[device]


class Step(Protocol):
    """A step of many tensors, ready to run."""

    def is_valid(self, gradients: Sequence[Tensor]) -> bool:
        """Whether the step is still ready: tensors are where they were, gradients alike."""

    def run(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Step every entry along its gradient, by its group's rule."""


class Center(Protocol):
    """The centering of many gradients in place, ready to run."""

    def is_valid(self, gradients: Sequence[Tensor]) -> bool:
        """Whether it is still ready: weights are where they were, gradients alike."""

    def run(self, gradients: Sequence[Tensor], decays: Sequence[float | Tensor]) -> None:
        """Take each vector's mean away, with its group's lambda w inside the projection."""


class MeanKeeper(Protocol):
    """Keeps the means of many weights through a step of someone else, ready to run."""

    def is_valid(self) -> bool:
        """Whether it is still ready: the weights are where they were."""

    def record(self) -> Any:
        """The mean of every weight vector, before the step."""

    def restore(self, noted: Any) -> None:
        """Give every vector that moved its mean back, after the step."""


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
    """Make one centered step of many parameters ready.

    Args:
        kinds: Which step each param group makes.
        at: "gradient" (the step sees centered gradients) or "update" (the whole change of the
            weights is centered).
        entries: The parameters; each names its group.
        gradients: A gradient for each. They are never written to.

    Returns:
        The parts that together make the step, one after the other. A parameter that is listed twice
        is in two of them: it is stepped twice, as by torch.
    """
    compiled = _Compiled()
    parts: dict[tuple[_Served | None, int], list[int]] = {}
    before: Counter[Tensor] = Counter()
    for index, (entry, gradient) in enumerate(zip(entries, gradients, strict=True)):
        kind, weight = kinds[entry.group], entry.weight
        by = compiled[weight.device]
        served = None
        if by is not None and by.serves(kind, entry, gradient):
            served = _Served(by, weight.device, weight.dtype, kind)
        parts.setdefault((served, before[weight]), []).append(index)
        before[weight] += 1
    steps = []
    for (served, _), indices in parts.items():
        chosen = [entries[index] for index in indices]
        step: Step = reference.Step(at, chosen)
        if served is not None:
            step = served.by.Step(served.kind, at, chosen, [gradients[index] for index in indices])
        steps.append(Part(step, indices))
    return steps


def prepare_center(
    entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
) -> list[CenterPart]:
    """Make the centering of many gradients, in place and again and again, ready.

    Args:
        entries: Whose gradients: fan-in axes, group and, with ``decayed``, weight are looked at.
        gradients: A gradient for each.
        decayed: Whether ``lambda w`` of a group may belong inside the projection.

    Returns:
        The parts that together center them all.
    """
    compiled = _Compiled()
    parts: dict[_Served | None, list[int]] = {}
    for index, (entry, gradient) in enumerate(zip(entries, gradients, strict=True)):
        weight = entry.weight if decayed else None
        served = _centered_by(compiled, gradient, gradient, entry.fan_in, weight)
        parts.setdefault(served, []).append(index)
    centers = []
    for served, indices in parts.items():
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
    by = compiled[gradient.device]
    if by is None or not by.serves_center(into, gradient, fan_in, weight):
        return None
    return _Served(by, gradient.device, gradient.dtype)


def prepare_mean_keeper(entries: Sequence[Entry]) -> list[MeanKeeper]:
    """Make ready to keep the means of many weights through steps that someone else makes.

    Args:
        entries: The weights: fan-in axes and residual are looked at.

    Returns:
        What together keeps them all.
    """
    compiled = _Compiled()
    parts: dict[_Served | None, list[Entry]] = {}
    for entry in entries:
        weight = entry.weight
        served = _centered_by(compiled, weight, weight, entry.fan_in, None)
        parts.setdefault(served, []).append(entry)
    return [
        reference.MeanKeeper(chosen) if served is None else served.by.MeanKeeper(chosen)
        for served, chosen in parts.items()
    ]


def center_(
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Iterable[Decay | None] | None = None,
    into: Sequence[Tensor] | None = None,
) -> None:
    r"""Take the mean of every weight vector of many tensors away: :math:`P g`.

    With coupled decay :math:`g - \operatorname{mean}(g + \lambda w)`, to which an optimizer that
    adds :math:`\lambda w` makes :math:`P(g + \lambda w)`.

    Args:
        gradients: Tensors of any shapes and types.
        fan_ins: The fan-in axes of each.
        decays: For each a weight of its shape and its lambda, or None; None (default) for no
            decay at all.
        into: Where to write; None (default) writes in place.

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
    compiled = _Compiled()
    parts: dict[_Served | None, list[int]] = {}
    for index, decay in enumerate(decays):
        weight = None if decay is None else decay[0]
        served = _centered_by(compiled, into[index], gradients[index], fan_ins[index], weight)
        parts.setdefault(served, []).append(index)
    for served, indices in parts.items():
        (reference if served is None else served.by).center_(
            [into[i] for i in indices],
            [gradients[i] for i in indices],
            [fan_ins[i] for i in indices],
            [decays[i] for i in indices],
        )

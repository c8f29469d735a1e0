"""What a contestant is: a name, what it claims to center, and a way to get ready."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.bench.work import Hyper, Work
from zeromean.kernels.step_spec import At

Make = Callable[[Hyper, list[nn.Parameter], "nn.Module | None"], Optimizer]
"""Makes an optimizer of parameters, and of the model that they belong to where there is one."""


class Absent(Exception):  # noqa: N818
    """A contestant cannot run here; the message says why in a few words."""


@dataclass(frozen=True)
class Running:
    """A contestant that has its tensors and waits for the start.

    Args:
        step: Makes one step.
        weights: Its weights now, as tensors on the CPU.
        optimizer: What holds its state, where that is a torch optimizer.
    """

    step: Callable[[], object]
    weights: Callable[[], list[Tensor]]
    optimizer: Optimizer | None = None


@dataclass(frozen=True)
class Contestant:
    """One way to make a step.

    Args:
        name: As tables show it.
        centers: Where it claims to center, or None.
        start: Gets it ready for some work; raises :class:`Absent` where it cannot run.
        make: Its optimizer, where that is torch's kind, for whole training steps.
    """

    name: str
    centers: At | None
    start: Callable[[Work], Running]
    make: Make | None = None


def of_optimizer(name: str, centers: At | None, make: Make) -> Contestant:
    """A contestant whose step is that of a torch optimizer."""

    def start(work: Work) -> Running:
        parameters = parameters_of(work)
        optimizer = make(work.hyper, parameters, None)
        return Running(optimizer.step, lambda: on_cpu(parameters), optimizer)

    return Contestant(name, centers, start, make)


def parameters_of(work: Work) -> list[nn.Parameter]:
    """The weights as parameters that have their gradients."""
    parameters = [nn.Parameter(weight) for weight in work.weights()]
    for parameter, gradient in zip(parameters, work.gradients(), strict=True):
        parameter.grad = gradient
    return parameters


def on_cpu(tensors: list[nn.Parameter]) -> list[Tensor]:
    """The numbers alone."""
    return [tensor.detach().cpu() for tensor in tensors]


def optional(module: str) -> Any:
    """An optional package.

    Raises:
        Absent: It is not installed, or not whole.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Absent("not installed" if error.name == module else f"lacks {error.name}") from error
    except ImportError as error:
        raise Absent("cannot be imported") from error

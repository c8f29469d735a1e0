"""The table: layers, settings and places that every framework has to walk alike.

A weight is written here as (out, in / groups, k...), which is torch's layout but for transposed
convolutions; a framework says by a :class:`Layout` how it stores that. The same weights must give
the same outputs, and the same steps from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import zeromean

Array = NDArray[np.float64]

STEPS = 4


@dataclass(frozen=True)
class Layer:
    """A torch layer, and the shape of a batch for it, channels first."""

    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]


# No two sizes of a weight are alike where that can be, so that no wrong axis goes unseen.
LAYERS: dict[str, Layer] = {
    "Linear": Layer(lambda: nn.Linear(5, 3), (4, 5)),
    "Conv1d": Layer(lambda: nn.Conv1d(3, 4, 5), (2, 3, 9)),
    "Conv2d": Layer(lambda: nn.Conv2d(5, 4, (3, 2), stride=2), (2, 5, 8, 7)),
    "Conv2d, grouped": Layer(lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "Conv2d, depthwise": Layer(lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 5)),
    "Conv3d": Layer(lambda: nn.Conv3d(4, 5, (2, 3, 2)), (2, 4, 4, 5, 4)),
    "ConvTranspose1d": Layer(lambda: nn.ConvTranspose1d(5, 4, 3, stride=2), (2, 5, 6)),
    "ConvTranspose2d": Layer(lambda: nn.ConvTranspose2d(5, 4, (3, 2), stride=2), (2, 5, 4, 3)),
    "ConvTranspose2d, square": Layer(lambda: nn.ConvTranspose2d(3, 3, 3), (2, 3, 4, 5)),
    "ConvTranspose2d, grouped": Layer(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 4, 3)
    ),
    "ConvTranspose3d": Layer(lambda: nn.ConvTranspose3d(5, 4, (2, 3, 2)), (2, 5, 3, 4, 3)),
}


@dataclass(frozen=True)
class Setting:
    """An optimizer. ``eps`` is so small that it does not matter where it is added."""

    optimizer: str
    lr: float
    weight_decay: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-16


SETTINGS: dict[str, Setting] = {
    "SGD, coupled decay": Setting("sgd", lr=0.1, weight_decay=0.2, momentum=0.9),
    "AdamW": Setting("adamw", lr=0.03, weight_decay=0.2),
}
PLACES = ("gradient", "update")


@dataclass(frozen=True)
class Job:
    """One walk: a layer under an optimizer with centering at one place."""

    layer: str
    setting: str
    at: str

    def torch_layer(self) -> nn.Module:
        torch.manual_seed(sum(map(ord, self.layer)))
        return LAYERS[self.layer].make().double()

    @property
    def weights(self) -> Mapping[str, Array]:
        """The start: ``weight`` as (out, in / groups, k...) and ``bias``."""
        layer = self.torch_layer()
        return {"weight": canonical(layer, layer.weight), "bias": layer.bias.detach().numpy()}

    @property
    def inputs(self) -> Array:
        """One batch a step, channels first."""
        shape = (STEPS, *LAYERS[self.layer].inputs)
        return np.random.default_rng(len(self.layer)).normal(size=shape)


JOBS = [Job(layer, setting, at) for layer in LAYERS for setting in SETTINGS for at in PLACES]


@dataclass(frozen=True)
class Walk:
    """What a framework made of a job.

    Args:
        outputs: Of the first batch, before the first step, channels first.
        weights: The weight after each step, as (out, in / groups, k...).
        biases: The bias after each step.
    """

    outputs: Array
    weights: Array
    biases: Array


@dataclass(frozen=True)
class Layout:
    """How a framework stores a weight (out, in / groups, k...).

    Args:
        axes: Which of these axes each of its own axes is.
        flipped: Its own axes that run backwards.
    """

    axes: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    def own(self, weight: Array) -> Array:
        return np.ascontiguousarray(np.flip(weight.transpose(self.axes), self.flipped))

    def canonical(self, own: Array) -> Array:
        return np.flip(own, self.flipped).transpose(np.argsort(self.axes))


@dataclass(frozen=True)
class Framework:
    """A framework's column of the table.

    Args:
        layers: The rows that it has; a variant adds its name in brackets: "Conv2d (variant)".
        walk: Runs a job, for one of these rows. The loss of a batch is
            ``mean(outputs**2) + mean(outputs)``.
        settings, places: What it can be set to.
        tolerance: How far it may be from torch in float64, relative to the largest entry.
    """

    layers: tuple[str, ...]
    walk: Callable[[str, Job], Walk]
    settings: tuple[str, ...] = tuple(SETTINGS)
    places: tuple[str, ...] = PLACES
    tolerance: float = 1e-12


def canonical(layer: nn.Module, weight: torch.Tensor) -> Array:
    """A torch layer's weight as (out, in / groups, k...)."""
    if getattr(layer, "transposed", False):  # (in, out / groups, k...)
        parts = weight.detach().unflatten(0, (layer.groups, -1)).transpose(1, 2)
        return parts.flatten(0, 1).numpy()
    return weight.detach().numpy()


@cache
def torch_walk(job: Job) -> Walk:
    """The walk that every framework is compared to."""
    setting = SETTINGS[job.setting]
    layer = job.torch_layer()
    optimizer: torch.optim.Optimizer
    if setting.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            layer.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(
            layer.parameters(),
            setting.lr,
            setting.betas,
            eps=setting.eps,
            weight_decay=setting.weight_decay,
        )
    zeromean.centralize(optimizer, layer, at=job.at)
    outputs, weights, biases = None, [], []
    for batch in torch.from_numpy(job.inputs):
        out = layer(batch)
        outputs = out.detach().numpy() if outputs is None else outputs
        optimizer.zero_grad()
        (out.square().mean() + out.mean()).backward()
        optimizer.step()
        weights.append(canonical(layer, layer.weight.detach().clone()))
        biases.append(layer.bias.detach().clone().numpy())
    return Walk(outputs, np.stack(weights), np.stack(biases))

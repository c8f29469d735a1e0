"""The table of layers, settings and places for which every framework must make the same steps.

Weights here are (out, in / groups, k...), torch's layout except for transposed convolutions; a
:class:`Layout` describes the layout of a framework. From the same weights, all frameworks must have
the same outputs and make the same steps.
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
    """A torch layer and the shape of its batches, channels first."""

    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]


# All sizes of a weight differ if possible, so that a wrong axis cannot pass.
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
    """An optimizer; ``eps`` is so small that its place in the formula does not matter."""

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
    """One layer, trained by one optimizer with centering at one place."""

    layer: str
    setting: str
    at: str

    def torch_layer(self) -> nn.Module:
        torch.manual_seed(sum(map(ord, self.layer)))
        return LAYERS[self.layer].make().double()

    @property
    def weights(self) -> Mapping[str, Array]:
        """Initial ``weight`` as (out, in / groups, k...), and ``bias``."""
        layer = self.torch_layer()
        return {"weight": canonical(layer, layer.weight), "bias": layer.bias.detach().numpy()}

    @property
    def inputs(self) -> Array:
        """One batch per step, channels first."""
        shape = (STEPS, *LAYERS[self.layer].inputs)
        return np.random.default_rng(len(self.layer)).normal(size=shape)


JOBS = [Job(layer, setting, at) for layer in LAYERS for setting in SETTINGS for at in PLACES]


def is_quick(job: Job) -> bool:
    """Return whether ``make test`` runs a job: one layer has all, the others have one each."""
    return job.layer == "Linear" or (job.setting, job.at) == ("AdamW", "update")


@dataclass(frozen=True)
class Walk:
    """The trajectory of a job.

    Args:
        outputs: Outputs for the first batch, before the first step, channels first.
        weights: Weight after each step, as (out, in / groups, k...).
        biases: Bias after each step.
    """

    outputs: Array
    weights: Array
    biases: Array


@dataclass(frozen=True)
class Layout:
    """The layout of a weight (out, in / groups, k...) in a framework.

    Args:
        axes: For each axis of the framework, the axis here.
        flipped: Axes of the framework that run backwards.
    """

    axes: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    def own(self, weight: Array) -> Array:
        return np.ascontiguousarray(np.flip(weight.transpose(self.axes), self.flipped))

    def canonical(self, own: Array) -> Array:
        return np.flip(own, self.flipped).transpose(np.argsort(self.axes))


@dataclass(frozen=True)
class Framework:
    """A framework of the table.

    Args:
        layers: Supported rows; a variant adds its name in parentheses: "Conv2d (variant)".
        walk: Function that trains a row for a job. The loss of a batch is
            ``mean(outputs**2) + mean(outputs)``.
        settings, places: Supported settings and places.
        tolerance: Largest difference to torch in float64, relative to the largest entry.
    """

    layers: tuple[str, ...]
    walk: Callable[[str, Job], Walk]
    settings: tuple[str, ...] = tuple(SETTINGS)
    places: tuple[str, ...] = PLACES
    tolerance: float = 1e-12


def canonical(layer: nn.Module, weight: torch.Tensor) -> Array:
    """The weight of a torch layer as (out, in / groups, k...)."""
    if getattr(layer, "transposed", False):  # (in, out / groups, k...)
        parts = weight.detach().unflatten(0, (layer.groups, -1)).transpose(1, 2)
        return parts.flatten(0, 1).numpy()
    return weight.detach().numpy()


@cache
def torch_walk(job: Job) -> Walk:
    """The trajectory of torch, with which every framework is compared."""
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

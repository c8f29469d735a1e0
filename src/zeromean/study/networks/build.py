"""From a network's name and a seed to its initial weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from zeromean.study.networks.cnn import cnn
from zeromean.study.networks.mlp import mlp
from zeromean.study.networks.resnet import resnet18, resnet20

NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet20": resnet20,
    "resnet18": resnet18,
}


def build(name: str, channels: int, side: int, classes: int, seed: int) -> nn.Module:
    """A network on the CPU whose initial weights depend on ``seed`` alone.

    The global random state is left as it was.

    Args:
        name: A key of ``NETWORKS``.
        channels: Of the images.
        side: Height and width of the images in pixels.
        classes: Number of outputs.
        seed: Of the initial weights.

    Example:
        >>> first, second = (build("mlp", 1, 8, 10, seed=3) for _ in range(2))
        >>> all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](channels, side, classes)

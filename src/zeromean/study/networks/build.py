"""Make networks by their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from zeromean.study.networks.cnn import cnn
from zeromean.study.networks.densenet import densenet121
from zeromean.study.networks.googlenet import googlenet, googlenet_imagenet
from zeromean.study.networks.horses import horses
from zeromean.study.networks.mlp import mlp, mlp_svhn, mlp_yaleb
from zeromean.study.networks.resnet import (
    resnet18,
    resnet20,
    resnet50,
    resnet56,
    resnet101,
    resnext29,
)
from zeromean.study.networks.timm_networks import timm_network
from zeromean.study.networks.vgg import vgg11, vgga
from zeromean.study.spec.task import TIMM_NAME, TIMM_PREFIX, model_family

# Arguments: the images' channels, their height and width in pixels, and the number of outputs.
MakeNetwork = Callable[[int, int, int], nn.Module]

NETWORKS: dict[str, MakeNetwork] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet56": resnet56,
    "resnet101": resnet101,
    "resnext29": resnext29,
    "vgg11": vgg11,
    "vgga": vgga,
    "densenet121": densenet121,
    "googlenet": googlenet,
    "googlenet-imagenet": googlenet_imagenet,
    "mlp-yaleb": mlp_yaleb,
    "mlp-svhn": mlp_svhn,
    "horses": horses,
}


def maker(name: str) -> MakeNetwork:
    """Return the function that makes a network: a key of ``NETWORKS``, or ``timm:NAME``."""
    if model_family(name) == TIMM_NAME:
        return partial(timm_network, name.removeprefix(TIMM_PREFIX))
    return NETWORKS[name]


def build(name: str, channels: int, side: int, classes: int, seed: int) -> nn.Module:
    """Make a network on the CPU whose initial weights depend on the seed alone.

    The global random state of the CPU stays as it is.

    Args:
        name: A key of ``NETWORKS``, or ``timm:NAME``.
        channels: Number of channels of the images.
        side: Height and width of the images in pixels.
        classes: Number of outputs.
        seed: Seed of the initial weights.

    Example:
        >>> first, second = (build("mlp", 1, 8, 10, seed=3) for _ in range(2))
        >>> all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return maker(name)(channels, side, classes)

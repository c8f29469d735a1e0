"""GoogLeNet with batch normalization, a network of parallel paths (Szegedy et al., CVPR 2015)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zeromean.study.networks.initialization import he_convolutions
from zeromean.study.networks.sizes import check_size


class Paths(NamedTuple):
    """Numbers of channels of the four paths of an inception module.

    Args:
        one: Channels of the 1x1 convolution; 0 leaves the path out.
        three: Channels of a 1x1 and a 3x3 convolution.
        double: Channels of a 1x1 convolution, and of each of two 3x3 convolutions.
        pooled: Channels of the 1x1 convolution after pooling; 0 leaves that convolution out.
        pool: Kind of pooling over 3x3 pixels, ``average`` or ``max``.
    """

    one: int
    three: tuple[int, int]
    double: tuple[int, int]
    pooled: int
    pool: str


# Ioffe and Szegedy, ICML 2015, Figure 5; the size is halved after the first and the second row.
STAGES = (
    (
        Paths(64, (64, 64), (64, 96), 32, "average"),
        Paths(64, (64, 96), (64, 96), 64, "average"),
        Paths(0, (128, 160), (64, 96), 0, "max"),
    ),
    (
        Paths(224, (64, 96), (96, 128), 128, "average"),
        Paths(192, (96, 128), (96, 128), 128, "average"),
        Paths(160, (128, 160), (128, 160), 96, "average"),
        Paths(96, (128, 192), (160, 192), 96, "average"),
        Paths(0, (128, 192), (192, 256), 0, "max"),
    ),
    (
        Paths(352, (192, 320), (160, 224), 128, "average"),
        Paths(352, (192, 320), (192, 224), 128, "max"),
    ),
)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """Return the layers of a convolution with batch normalization and ReLU."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class Inception(nn.Module):
    """Concatenate the outputs of parallel paths; the last layer of each path has the stride."""

    def __init__(self, inputs: int, paths: Paths, stride: int = 1) -> None:
        super().__init__()
        three, double = paths.three, paths.double
        pool = nn.AvgPool2d if paths.pool == "average" else nn.MaxPool2d
        self.paths = nn.ModuleList()
        if paths.one:
            self.paths.append(nn.Sequential(*_convolution(inputs, paths.one, 1)))
        self.paths.append(
            nn.Sequential(
                *_convolution(inputs, three[0], 1),
                *_convolution(three[0], three[1], 3, stride, padding=1),
            )
        )
        self.paths.append(
            nn.Sequential(
                *_convolution(inputs, double[0], 1),
                *_convolution(double[0], double[1], 3, padding=1),
                *_convolution(double[1], double[1], 3, stride, padding=1),
            )
        )
        pooled = _convolution(inputs, paths.pooled, 1) if paths.pooled else []
        self.paths.append(nn.Sequential(pool(3, stride=stride, padding=1), *pooled))
        self.outputs = paths.one + three[1] + double[1] + (paths.pooled or inputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([path(x) for path in self.paths], 1)


def googlenet(channels: int, side: int, classes: int) -> nn.Module:
    """Make GoogLeNet as in the CWN paper for CIFAR (section 4.2), normalized after convolutions.

    The stem is two unpadded 3x3 convolutions, and 2x2 convolutions with stride 2 halve the size, as
    in the authors' code. That code also has a ReLU before each normalization of an inception
    module; neither paper has it, and here there is none.

    Raises:
        ZeromeanError: The images are smaller than 8x8 pixels, which leaves nothing to halve.
    """
    check_size("googlenet", side, 8)
    layers = [*_convolution(channels, 64, 3), *_convolution(64, 192, 3)]
    inputs = 192
    for number, stage in enumerate(STAGES):
        if number > 0:
            layers += _convolution(inputs, inputs, 2, stride=2)
        for paths in stage:
            inception = Inception(inputs, paths)
            layers.append(inception)
            inputs = inception.outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return he_convolutions(nn.Sequential(*layers))


def googlenet_imagenet(channels: int, side: int, classes: int) -> nn.Module:
    """Make GoogLeNet for large images, normalized as by Ioffe and Szegedy (ICML 2015, Figure 5).

    Raises:
        ZeromeanError: The images are smaller than 32x32 pixels, which leaves nothing to halve.
    """
    check_size("googlenet-imagenet", side, 32)
    layers: list[nn.Module] = [
        *_convolution(channels, 64, 7, stride=2, padding=3),
        nn.MaxPool2d(3, stride=2, padding=1),
        *_convolution(64, 64, 1),
        *_convolution(64, 192, 3, padding=1),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    inputs = 192
    for stage in STAGES:
        for paths in stage:
            # The modules without a first path halve the size.
            inception = Inception(inputs, paths, stride=1 if paths.one else 2)
            layers.append(inception)
            inputs = inception.outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return he_convolutions(nn.Sequential(*layers))

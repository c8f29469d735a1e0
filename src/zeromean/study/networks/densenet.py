"""DenseNet, in which each layer sees the outputs of all layers before it (Huang et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zeromean.study.networks.sizes import check_size


class DenseLayer(nn.Module):
    """Append ``growth`` channels, by a 1x1 and a 3x3 convolution, to the input.

    Args:
        inputs: Number of input channels.
        growth: Number of channels that are added; the 1x1 convolution has four times as many.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


def densenet121(channels: int, side: int, classes: int) -> nn.Module:
    """Make DenseNet-121 (k = 32) with a stem for small images: 7.0 million parameters.

    The stem is one 3x3 convolution without normalization or pooling. Channels and size are halved
    between blocks.

    Raises:
        ZeromeanError: The images are smaller than 8x8 pixels, which leaves nothing after pooling.
    """
    check_size("densenet121", side, 8)
    growth = 32
    inputs = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(channels, inputs, 3, padding=1, bias=False)]
    for block, depth in enumerate((6, 12, 24, 16)):
        if block > 0:
            layers += [
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, inputs // 2, 1, bias=False),
                nn.AvgPool2d(2),
            ]
            inputs //= 2
        for _ in range(depth):
            layers.append(DenseLayer(inputs, growth))
            inputs += growth
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(inputs, classes))

"""A small convolutional network."""

from __future__ import annotations

from torch import nn

from zeromean.study.networks.sizes import check_size


def cnn(channels: int, side: int, classes: int) -> nn.Module:
    """Make two blocks of 3x3 convolution, ReLU and 2x2 max pooling, and one linear layer.

    Raises:
        ZeromeanError: The images are smaller than 4x4 pixels, which leaves nothing after pooling.
    """
    check_size("cnn", side, 4)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (side // 4) ** 2, classes),
    )

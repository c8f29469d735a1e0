"""Plain deep convolutional networks (Simonyan and Zisserman, ICLR 2015)."""

from __future__ import annotations

from torch import nn

from zeromean.study.networks.initialization import he_convolutions

# Configuration A: the widths of the 3x3 convolutions between poolings.
A = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def _convolutions(channels: int, normalized: bool) -> list[nn.Module]:
    """Return the eight convolutions of configuration A, which turn an image into 512 numbers.

    Pooling rounds sizes up, and the last output is averaged. Both allow images of any size, and
    change nothing for 32x32 pixels.
    """
    layers: list[nn.Module] = []
    for widths in A:
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if normalized:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def vgg11(channels: int, _side: int, classes: int) -> nn.Module:
    """Make VGG-11 as the GC authors trained it: normalized, one linear layer, 9.2M weights."""
    return nn.Sequential(*_convolutions(channels, normalized=True), nn.Linear(512, classes))


def vgga(channels: int, _side: int, classes: int) -> nn.Module:
    """Make VGG-A of the CWN paper (section 4.2), with 9.5M weights.

    It has one hidden linear layer of 512 units, the only layer with batch normalization.
    """
    return he_convolutions(
        nn.Sequential(
            *_convolutions(channels, normalized=False),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, classes),
        )
    )

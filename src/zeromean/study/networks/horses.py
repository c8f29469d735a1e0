"""The network of a tutorial on classifying horses and humans."""

from __future__ import annotations

from torch import nn

from zeromean.study.networks.initialization import initialize
from zeromean.study.networks.sizes import check_size


def horses(channels: int, side: int, classes: int) -> nn.Module:
    r"""Make three unpadded 3x3 convolutions with 2x2 max pooling and a hidden layer of 512 units.

    Dropout of a half follows the second and third convolution and precedes the linear layers.
    Initial weights are Xavier's with biases 0, Keras' default. There are 40.2 million parameters
    for 300x300 pixels.

    The tutorial has one sigmoid output z and binary cross-entropy. Two outputs with cross-entropy
    are the same model, :math:`z = z_1 - z_0`. At the same rate, the difference of the two weight
    vectors moves twice as fast as the one vector would, and it starts with twice the variance.

    Raises:
        ZeromeanError: The images are smaller than 22x22 pixels, which leaves nothing after pooling.
    """
    check_size("horses", side, 22)
    layers: list[nn.Module] = []
    for width in (16, 32, 64):
        layers += [nn.Conv2d(channels, width, 3), nn.ReLU()]
        if width > 16:
            layers.append(nn.Dropout(0.5))
        layers.append(nn.MaxPool2d(2))
        channels = width
        side = (side - 2) // 2
    layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * side**2, 512), nn.ReLU()]
    return initialize(nn.Sequential(*layers, nn.Linear(512, classes)), name="xavier")

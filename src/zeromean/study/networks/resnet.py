"""Residual networks for small images (He et al., CVPR 2016)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of the paper's CIFAR networks (its option A).

    Args:
        extra: Zero channels to append.
        stride: Step in pixels, both ways.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, projected: bool) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if not projected:
        return PaddedShortcut(outputs - inputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _resnet(
    channels: int, classes: int, widths: tuple[int, ...], blocks: int, projected: bool
) -> nn.Module:
    """A 3x3 stem, one stage of blocks a width (halving the size between), global pooling.

    Args:
        channels: Of the images.
        classes: Number of outputs.
        widths: Channels of each stage.
        blocks: Blocks in each stage.
        projected: 1x1 convolutions in the shortcuts where the shape changes, instead of padding.
    """
    inputs = widths[0]
    layers: list[nn.Module] = [
        nn.Conv2d(channels, inputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
    ]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = _shortcut(inputs, outputs, stride, projected)
            layers.append(BasicBlock(inputs, outputs, stride, shortcut))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet20(channels: int, _side: int, classes: int) -> nn.Module:
    """The paper's CIFAR-10 network of 20 layers: 0.27 million parameters, any image size."""
    return _resnet(channels, classes, widths=(16, 32, 64), blocks=3, projected=False)


def resnet18(channels: int, _side: int, classes: int) -> nn.Module:
    """ResNet-18 with the usual stem for small images (3x3, no pooling): 11.2 million parameters."""
    return _resnet(channels, classes, widths=(64, 128, 256, 512), blocks=2, projected=True)

"""Residual networks for small images (He et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from zeromean.study.networks.initialization import he_convolutions


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of the paper's CIFAR networks (option A).

    Args:
        extra: Number of channels of zeros to append.
        stride: Stride in pixels along both axes.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _shortcut(inputs: int, outputs: int, stride: int, projected: bool = True) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if not projected:
        return PaddedShortcut(outputs - inputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them.

    Args:
        inputs: Number of input channels.
        width: Number of channels of both convolutions.
        stride: Stride of the first convolution.
        projected: Whether the shortcut changes the shape with a 1x1 convolution instead of padding.
    """

    def __init__(self, inputs: int, width: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride, projected)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, and a shortcut around them.

    Args:
        inputs: Number of input channels.
        width: Number of channels of the first two convolutions.
        stride: Stride of the second convolution.
        expansion: Ratio of output channels to ``width``.
        groups: Number of groups of the second convolution; a ResNeXt has several.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, expansion: int = 4, groups: int = 1
    ) -> None:
        super().__init__()
        outputs = expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def residual_network(
    channels: int,
    classes: int,
    block: Callable[[int, int, int], nn.Module],
    *,
    stem: int,
    kernel: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    expansion: int = 1,
) -> nn.Module:
    """Make a network of a stem, stages of residual blocks, average pooling and a linear layer.

    The stem keeps the size of the images; each stage after the first halves it.

    Args:
        channels: Number of channels of the images.
        classes: Number of outputs.
        block: Function from input channels, width and stride to a block.
        stem: Number of channels of the first convolution.
        kernel: Size of the first convolution in pixels.
        widths: Width of the blocks of each stage.
        depths: Number of blocks of each stage.
        expansion: Ratio of a block's output channels to its width.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, stem, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(),
    ]
    inputs = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for number in range(depth):
            layers.append(block(inputs, width, 2 if stage > 0 and number == 0 else 1))
            inputs = expansion * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)


def _narrow(channels: int, classes: int, blocks: int) -> nn.Module:
    """Make the paper's CIFAR-10 network (section 4.2): 6 * blocks + 2 layers, padded shortcuts."""
    block = partial(BasicBlock, projected=False)
    widths, depths = (16, 32, 64), (blocks,) * 3
    return he_convolutions(
        residual_network(channels, classes, block, stem=16, kernel=3, widths=widths, depths=depths)
    )


def _wide(
    channels: int,
    classes: int,
    block: Callable[[int, int, int], nn.Module],
    depths: tuple[int, ...],
    expansion: int,
) -> nn.Module:
    """Make the paper's ImageNet network with the usual stem for small images.

    The stem is a 3x3 convolution without pooling. The initial weights are torch's, as in the GC
    authors' code.
    """
    return residual_network(
        channels, classes, block,
        stem=64, kernel=3, widths=(64, 128, 256, 512), depths=depths, expansion=expansion,
    )  # fmt: skip


def resnet20(channels: int, _side: int, classes: int) -> nn.Module:
    """Make the paper's CIFAR-10 network of 20 layers: 0.27 million parameters, any image size."""
    return _narrow(channels, classes, blocks=3)


def resnet56(channels: int, _side: int, classes: int) -> nn.Module:
    """Make the paper's CIFAR-10 network of 56 layers: 0.85 million parameters, any image size."""
    return _narrow(channels, classes, blocks=9)


def resnet18(channels: int, _side: int, classes: int) -> nn.Module:
    """Make ResNet-18 with the stem for small images: 11.2 million parameters."""
    block = partial(BasicBlock, projected=True)
    return _wide(channels, classes, block, depths=(2, 2, 2, 2), expansion=1)


def resnet50(channels: int, _side: int, classes: int) -> nn.Module:
    """Make ResNet-50 with the stem for small images: 23.5 million parameters."""
    return _wide(channels, classes, Bottleneck, depths=(3, 4, 6, 3), expansion=4)


def resnet101(channels: int, _side: int, classes: int) -> nn.Module:
    """Make ResNet-101 with the stem for small images: 42.5 million parameters."""
    return _wide(channels, classes, Bottleneck, depths=(3, 4, 23, 3), expansion=4)


def resnext29(channels: int, _side: int, classes: int) -> nn.Module:
    """Make ResNeXt-29, 4x64d (Xie et al., CVPR 2017), as the GC authors trained it.

    It has 27.1 million parameters and takes images of any size. The authors' stem is a 1x1
    convolution, and a block has twice as many output channels as its grouped convolution. The
    ResNeXt paper has a 3x3 stem, and 256, 512 and 1024 output channels.
    """
    return residual_network(
        channels, classes, partial(Bottleneck, expansion=2, groups=4),
        stem=64, kernel=1, widths=(256, 512, 1024), depths=(3, 3, 3), expansion=2,
    )  # fmt: skip

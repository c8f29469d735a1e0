"""ResNeXt, a residual network with grouped convolutions (Xie et al., CVPR 2017)."""

from __future__ import annotations

from functools import partial

from torch import nn

from zeromean.study.networks.resnet import Bottleneck, residual_network


def resnext29(channels: int, _side: int, classes: int) -> nn.Module:
    """Make ResNeXt-29, 4x64d, as the GC authors trained it: 27.1 million parameters, any size.

    Their stem is a 1x1 convolution, and a block has twice as many output channels as its grouped
    convolution. The ResNeXt paper has a 3x3 stem, and 256, 512 and 1024 output channels.
    """
    return residual_network(
        channels,
        classes,
        partial(Bottleneck, expansion=2, groups=4),
        stem=64,
        kernel=1,
        widths=(256, 512, 1024),
        depths=(3, 3, 3),
        expansion=2,
    )

"""A residual network whose blocks are wide and grouped (Xie et al., CVPR 2017)."""

from __future__ import annotations

from functools import partial

from torch import nn

from zeromean.study.networks.resnet import Bottleneck, residual_network


def resnext29(channels: int, _side: int, classes: int) -> nn.Module:
    """ResNeXt-29, 4x64d, as the GC authors trained it: 27.1 million parameters, any image size.

    Their stem is a convolution of one pixel, and a block's outputs are twice as wide as its
    grouped convolution; the ResNeXt paper has 3x3, and outputs of 256, 512 and 1024 channels.
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

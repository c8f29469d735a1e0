"""The usual ways to draw initial weights, from each weight vector's own fan-in."""

from __future__ import annotations

import math

import torch
from torch import nn

from zeromean.model import owners

INITIALIZATIONS = {
    "torch": "torch's defaults, uniform with variance 1 / (3 M)",
    "lecun": "LeCun's, normal with variance 1 / M",
    "xavier": "Xavier's, uniform with variance 2 / (M + fan-out)",
    "he": "He's, normal with variance 2 / M",
}


@torch.no_grad()
def initialize(network: nn.Module, *, name: str) -> None:
    """Draws every weight of known fan-in M anew, in place; all but torch's set biases to 0.

    Args:
        network: Any; what has no fan-in is left as it is.
        name: One of ``INITIALIZATIONS``.
    """
    if name == "torch":
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        return
    for owner in owners(network):
        if owner.fan_in is None or owner.fan_in.role == "embedding":
            continue
        weight = owner.parameter
        fan_in = owner.fan_in.size(owner.shape)
        if name == "xavier":
            # Of each input, over the positions of a kernel that it meets.
            fan_out = weight.numel() * math.prod(owner.shape[2:]) / fan_in
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight.uniform_(-bound, bound)
        else:
            weight.normal_(0, math.sqrt((2 if name == "he" else 1) / fan_in))
        bias = getattr(owner.module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.zero_()

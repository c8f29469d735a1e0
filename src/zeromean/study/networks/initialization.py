"""The usual distributions of initial weights, given the fan-in M of each weight vector."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from zeromean.model import owners


@torch.no_grad()
def initialize(network: nn.Module, *, name: Literal["torch", "lecun", "xavier", "he"]) -> nn.Module:
    """Draw every weight with a known fan-in again.

    ====== =================================== =======
    name   distribution                        biases
    ====== =================================== =======
    torch  uniform, variance 1 / (3 M)         uniform
    lecun  normal, variance 1 / M              0
    xavier uniform, variance 2 / (M + fan-out) 0
    he     normal, variance 2 / M              0
    ====== =================================== =======

    "torch" calls every module's ``reset_parameters``: its row holds for linear layers and
    convolutions, and the other modules are reset too. The other names leave embeddings and
    parameters without a fan-in unchanged, except the biases of the layers whose weights are drawn.

    Args:
        network: Network to initialize.
        name: One of the names above.

    Returns:
        The network itself, changed in place.
    """
    if name == "torch":
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        return network
    for owner in owners(network):
        if owner.fan_in is None or owner.fan_in.role == "embedding":
            continue
        weight = owner.parameter
        fan_in = owner.fan_in.size(owner.shape)
        if name == "xavier":
            # An input affects each output channel through every position of the kernel.
            fan_out = weight.numel() * math.prod(owner.shape[2:]) / fan_in
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight.uniform_(-bound, bound)
        else:
            weight.normal_(0, math.sqrt((2 if name == "he" else 1) / fan_in))
        for parameter_name, parameter in owner.module.named_parameters(recurse=False):
            # Recurrent layers have several biases; bias_k of attention is not one, but a token.
            if "bias" in parameter_name and parameter.ndim == 1:
                parameter.zero_()
    return network


def he_convolutions(network: nn.Module) -> nn.Module:
    """Draw the weights of every ``nn.Conv2d`` from N(0, 2 / fan-out) and set its bias to 0.

    Returns:
        The network itself, changed in place.

    Reference:
        He et al., Delving Deep into Rectifiers, ICCV 2015, section 2.2, backward case.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network

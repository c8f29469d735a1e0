"""Initial weights that belong to an architecture."""

from __future__ import annotations

from torch import nn


def he_convolutions(network: nn.Module) -> nn.Module:
    """Draws the weights of all convolutions from N(0, 2 / fan-out), sets their biases to 0.

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

"""Find weight vectors by the computation of a layer, as an oracle for its declared axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def weight_vectors(outputs: Tensor, weight: Tensor, unit_axis: int = 1) -> list[Tensor]:
    """Return one mask per output unit: the entries of ``weight`` that its output depends on."""
    masks = []
    for unit in outputs.unbind(unit_axis):
        (gradient,) = torch.autograd.grad(unit.sum(), weight, retain_graph=True)
        masks.append(gradient != 0)
    return masks


def center_vectors(x: Tensor, masks: list[Tensor]) -> Tensor:
    """Subtract the mean from each weight vector of ``x``, one after the other in float64."""
    centered = x.double().clone()
    for mask in masks:
        centered[mask] -= x.double()[mask].mean()
    return centered


def layer_vectors(
    layer: nn.Module, inputs: Callable[[], tuple[Tensor, ...]], unit_axis: int = 1
) -> list[Tensor]:
    """Find the weight vectors of ``layer.weight`` from positive inputs, so that nothing cancels."""
    layer = layer.double()
    return weight_vectors(layer(*inputs()), layer.weight, unit_axis)

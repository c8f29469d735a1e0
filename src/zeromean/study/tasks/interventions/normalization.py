"""Batch or group normalization, added to a network or removed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn

from zeromean.study.spec.validation import SettingError

# The number of Wu and He (Group Normalization, ECCV 2018) and of the GC paper.
GROUPS = 32
Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def normalize_by(network: nn.Module, *, kind: Literal["batch", "group", "none"]) -> None:
    """Change every batch or group normalization to one kind, in place.

    A network without any gets one after each convolution and each linear layer but the last.

    Args:
        network: The network; names of modules change if one is added.
        kind: "batch", "group" (32 groups, or the most that divide the channels into groups of two
            or more) or "none".

    Raises:
        ZeromeanError: There is nothing to change, or a normalization is of a subclass.
    """
    found = [
        (name, module) for name, module in network.named_modules() if isinstance(module, NORMS)
    ]
    if found:
        _change(network, found, kind)
        return
    if kind == "none":
        raise _nothing(kind)
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ][:-1]
    if not layers:
        raise _nothing(kind)
    for name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            norm = _norm(kind, layer.out_channels, flat=False)
        else:
            norm = _norm(kind, layer.out_features, flat=True)
        network.set_submodule(name, nn.Sequential(layer, norm))


def _change(network: nn.Module, found: Sequence[tuple[str, Norm]], kind: str) -> None:
    others = sorted({type(module).__name__ for _, module in found if type(module) not in NORMS})
    if others:
        raise SettingError(
            "methods",
            f'normalization = "{kind}" cannot replace {others[0]}, which may do more than'
            " normalize",
            "Leave that method out for this model",
        )
    if kind == "batch" and not any(isinstance(module, nn.GroupNorm) for _, module in found):
        raise _nothing(kind)
    for name, module in found:
        features = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        flat = isinstance(module, nn.BatchNorm1d)
        network.set_submodule(name, _norm(kind, features, flat))


def _norm(kind: str, features: int, flat: bool) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "group":
        # A group of one number would always become 0.
        most = min(GROUPS, max(1, features // 2))
        groups = max(number for number in range(1, most + 1) if features % number == 0)
        return nn.GroupNorm(groups, features)
    return nn.BatchNorm1d(features) if flat else nn.BatchNorm2d(features)


def _nothing(kind: str) -> SettingError:
    return SettingError(
        "methods",
        f'normalization = "{kind}" changes nothing in this network',
        "Leave that method out for this model",
    )

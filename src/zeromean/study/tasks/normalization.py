"""Batch or group normalization, added to a network or removed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from zeromean.study.spec.validation import SettingError

# The number of Wu and He (Group Normalization, ECCV 2018) and of the GC paper.
GROUPS = 32
Kind: TypeAlias = Literal["batch", "group", "none"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
OTHER_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.SyncBatchNorm, _InstanceNorm)


def normalize_by(network: nn.Module, *, kind: Kind) -> None:
    """Change every batch or group normalization to one kind, in place.

    A network without any normalization gets one after each convolution and each linear layer but
    the last.

    Args:
        network: The network; names of modules change if one is added.
        kind: "batch", "group" (32 groups, or the most that divide the channels into groups of two
            or more) or "none".

    Raises:
        ZeromeanError: There is nothing to change, or a normalization is of another kind or of a
            subclass.
    """
    norms = [one for one in network.modules() if isinstance(one, NORMS)]
    changes = _replacements(norms, kind) if norms else _additions(network, kind)
    weight = next(network.parameters())
    # A module can have several names.
    for name, module in [*network.named_modules(remove_duplicate=False)]:
        if module in changes:
            network.set_submodule(name, changes[module].to(weight.device, weight.dtype))


def _replacements(
    norms: Sequence[_BatchNorm | nn.GroupNorm], kind: Kind
) -> dict[nn.Module, nn.Module]:
    others = sorted({type(norm).__name__ for norm in norms if type(norm) not in NORMS})
    if others:
        raise _irreplaceable(kind, f"{others[0]}, which may do more than normalize")
    if kind == "batch" and not any(isinstance(norm, nn.GroupNorm) for norm in norms):
        raise _nothing(kind)
    return {
        norm: _norm(kind, norm.num_channels, nn.BatchNorm2d)
        if isinstance(norm, nn.GroupNorm)
        else _norm(kind, norm.num_features, type(norm))
        for norm in norms
    }


def _additions(network: nn.Module, kind: Kind) -> dict[nn.Module, nn.Module]:
    layers = [one for one in network.modules() if isinstance(one, _ConvNd | nn.Linear)][:-1]
    if kind == "none" or not layers:
        raise _nothing(kind)
    for module in network.modules():
        if isinstance(module, OTHER_NORMS):
            raise _irreplaceable(kind, type(module).__name__)
    return {layer: nn.Sequential(layer, _norm_after(layer, kind)) for layer in layers}


def _norm_after(layer: _ConvNd | nn.Linear, kind: Kind) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return _norm(kind, layer.out_features, nn.BatchNorm1d)
    of_dimensions = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return _norm(kind, layer.out_channels, of_dimensions[len(layer.kernel_size)])


def _norm(kind: Kind, features: int, batch_norm: type[_BatchNorm]) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return batch_norm(features)
    # A group of one number would always become 0.
    most = min(GROUPS, max(1, features // 2))
    groups = max(number for number in range(1, most + 1) if features % number == 0)
    return nn.GroupNorm(groups, features)


def _irreplaceable(kind: Kind, norm: str) -> SettingError:
    return SettingError(
        "methods",
        f'normalization = "{kind}" cannot replace {norm}',
        "Leave that method out for this model",
    )


def _nothing(kind: Kind) -> SettingError:
    return SettingError(
        "methods",
        f'normalization = "{kind}" changes nothing in this network',
        "Leave that method out for this model",
    )

"""FSDP1: its flat shards hide a weight's rows; the full gradient is there in backward alone.

``FullyShardedDataParallel`` lays the parameters of each wrapped unit end to end and cuts them
anywhere, so that the optimizer sees pieces without rows. Before a gradient is reduced and cut it is
whole, and P is linear: centering it there is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zeromean.class_lookup import is_a
from zeromean.fan_in import FanIn
from zeromean.kernels import center_

_FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"


@dataclass(frozen=True)
class Origin:
    """Where an FSDP1 shard comes from, when the model was wrapped with ``use_orig_params=True``.

    Args:
        unit: What the FSDP1 unit wraps.
        module: The module that uses the whole parameter in its forward pass.
        name: The parameter's name there.
        shape: Its whole shape.
    """

    unit: nn.Module
    module: nn.Module
    name: str
    shape: tuple[int, ...]

    def hook_gradient(self, fan_in: FanIn) -> RemovableHandle:
        """Center the whole gradient in every backward pass, before it is reduced and sharded."""

        def center(gradient: Tensor) -> Tensor:
            gradient = gradient.clone(memory_format=torch.preserve_format)
            center_([gradient], [fan_in])
            return gradient

        def before_forward(unit: nn.Module, args: Any) -> None:
            whole: Tensor = getattr(self.module, self.name)  # a view made for this pass
            if whole.requires_grad:
                whole.register_hook(center)  # type: ignore[no-untyped-call]

        return self.unit.register_forward_pre_hook(before_forward)


def is_flat(parameter: Tensor) -> bool:
    """Whether a parameter is one of FSDP1's flat shards, or a piece of one."""
    return getattr(parameter, "_fsdp_flattened", False)


def origins(model: nn.Module) -> dict[Tensor, Origin]:
    """Where each of the optimizer's shards comes from; empty for a model without FSDP1.

    This reads what FSDP1 notes down when it wraps, and communicates nothing.
    """
    found = {}
    for unit in _units(model):
        flat = unit._flat_param
        if flat is None or flat._params is None:
            continue
        for parameter, info, shape in zip(
            flat._params, flat._param_infos, flat._shapes, strict=True
        ):
            found[parameter] = Origin(unit.module, info.module, info.param_name, tuple(shape))
    return found


def _units(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if is_a(type(module), _FSDP1)]

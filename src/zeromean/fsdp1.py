"""FSDP1: the optimizer sees flat shards; whole gradients exist only in the backward pass.

``FullyShardedDataParallel`` concatenates the parameters of each wrapped unit and cuts the result
anywhere, so the optimizer sees pieces without rows. A gradient is whole until it is reduced and
cut. Because P is linear, centering it there is correct.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zeromean.class_lookup import is_a

_FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"


@dataclass(frozen=True)
class Origin:
    """The origin of an FSDP1 shard in a model that was wrapped with ``use_orig_params=True``.

    Args:
        unit: Module that the FSDP1 unit wraps.
        module: Module that uses the whole parameter in its forward pass.
        name: Name of the parameter in that module.
        shape: Shape of the whole parameter.
    """

    unit: nn.Module
    module: nn.Module
    name: str
    shape: tuple[int, ...]


def is_flat(parameter: Tensor) -> bool:
    """Return whether a parameter is one of FSDP1's flat shards, or a piece of one."""
    return getattr(parameter, "_fsdp_flattened", False)


def origins(model: nn.Module) -> dict[Tensor, Origin]:
    """Return the origin of each of the optimizer's shards; empty for a model without FSDP1.

    This reads what FSDP1 records when it wraps a model; ranks do not communicate.
    """
    found = {}
    units: Any = (module for module in model.modules() if is_a(type(module), _FSDP1))
    for unit in units:
        flat = unit._flat_param
        if flat is None or flat._params is None:
            continue
        for parameter, info, shape in zip(
            flat._params, flat._param_infos, flat._shapes, strict=True
        ):
            found[parameter] = Origin(unit.module, info.module, info.param_name, tuple(shape))
    return found

"""FSDP2: fully_shard on one mesh dimension, with replicas, and on other axes than 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from processes import case
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from training import (
    HOW,
    OPTIMIZERS,
    PLACES,
    Network,
    train_beside_centring_by_hand,
    train_beside_one_process,
)


def my_part(tokens: Tensor) -> Tensor:
    return tokens.chunk(dist.get_world_size())[dist.get_rank()]


def shard(model: nn.Module, by_layer: bool = False, **options: Any) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if by_layer:
        for layer in model.children():
            fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def shard_with_replicas(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return fully_shard(model, mesh=mesh)


def check(
    make_model: Callable[[], nn.Module],
    distribute: Callable[..., nn.Module],
    at: str,
    **options: Any,
) -> None:
    for make in OPTIMIZERS.values():
        train_beside_one_process(make_model(), distribute, make, at, my_part, **options)


def even_axis_1(parameter: nn.Parameter) -> Shard:
    return Shard(1 if parameter.ndim > 1 and parameter.shape[1] % 2 == 0 else 0)


for at in PLACES:
    for world in (2, 3):
        case(
            world,
            f"FSDP2 at={at}",
            partial(check, Network, shard, at),
            ("FSDP2: uneven, one-row and empty shards, groups cut by a shard", at, HOW),
        )
    case(
        2,
        f"FSDP2 by layer at={at}",
        partial(check, Network, partial(shard, by_layer=True, reshard_after_forward=False), at),
        ("FSDP2 layer by layer", at, HOW),
    )
    case(
        2,
        f"FSDP2 on axis 1 at={at}",
        partial(check, Network, partial(shard, shard_placement_fn=even_axis_1), at),
        ("FSDP2 sharding the fan-in axis (`shard_placement_fn`)", at, HOW),
    )
    case(
        2,
        f"FSDP2 scope=tensor at={at}",
        partial(check, Network, shard, at, scope="tensor"),
        ('FSDP2, `scope="tensor"`', at, HOW),
    )
    case(
        2,
        f"FSDP2 CPU offload at={at}",
        partial(
            check, Network, partial(shard, offload_policy=CPUOffloadPolicy(pin_memory=False)), at
        ),
        ("FSDP2, CPU offload (on a CPU mesh)", at, HOW),
    )
    case(
        4,
        f"HSDP at={at}",
        partial(check, Network, shard_with_replicas, at),
        ("FSDP2 with replicas (HSDP)", at, HOW),
    )
    case(
        2,
        f"FSDP2 mixed precision at={at}",
        lambda at=at: train_beside_centring_by_hand(
            Network(),
            partial(
                shard,
                mp_policy=MixedPrecisionPolicy(
                    param_dtype=torch.bfloat16, reduce_dtype=torch.float32
                ),
            ),
            at,
            my_part,
        ),
        ("FSDP2, MixedPrecisionPolicy", at, "equal to centring whole tensors by hand within 1e-6"),
    )

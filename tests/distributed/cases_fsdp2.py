"""FSDP2: fully_shard on one mesh dimension, with replicas, and on other axes than 0."""

from __future__ import annotations

import copy
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
    assert_same,
    batches,
    step_once,
    train_beside_centering_by_hand,
    train_beside_one_process,
)

import zeromean
import zeromean.optim


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


DROP_INS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(zeromean.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.05),
    "AdamW": partial(zeromean.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def check_drop_ins(at: str) -> None:
    """The optimizers that center inside their step, which take the model itself."""
    for make in DROP_INS.values():
        alone = Network().double()
        model = shard(copy.deepcopy(alone))
        optimizer = make(model, at=at, embeddings=True)
        optimizer_alone = make(alone, at=at, embeddings=True)
        for tokens in batches():
            step_once(model, optimizer, my_part(tokens))
            step_once(alone, optimizer_alone, tokens)
        assert_same(model, alone)


def check_taken_over_in_part(at: Any) -> None:
    """The kernels step what is not sharded; torch steps the shards, which need two passes."""
    start = Network().double()
    for make in OPTIMIZERS.values():
        models, ways = [], []
        for fused in (None, False):
            whole_linear = copy.deepcopy(start)
            model = shard(whole_linear, ignored_params={*whole_linear.linear.parameters()})
            optimizer = make(model.parameters())
            handle = zeromean.centralize(optimizer, model, at=at, fused=fused)
            for tokens in batches(5):
                step_once(model, optimizer, my_part(tokens))
            models.append(model)
            ways.append(handle.way)
        assert ways[0].name == "taken over"
        assert "torch steps 7 of 9" in ways[0].reason
        assert_same(*models)


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
        2,
        f"FSDP2 drop-ins at={at}",
        partial(check_drop_ins, at),
        ("FSDP2 with zeromean.optim.SGD and AdamW", at, HOW),
    )
    case(
        2,
        f"FSDP2 with parameters that are not sharded at={at}",
        partial(check_taken_over_in_part, at),
        ("FSDP2, `ignored_params`", at, "equal to two passes within 1e-6 after 5 steps"),
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
        lambda at=at: train_beside_centering_by_hand(
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
        ("FSDP2, MixedPrecisionPolicy", at, "equal to centering whole tensors by hand within 1e-6"),
    )

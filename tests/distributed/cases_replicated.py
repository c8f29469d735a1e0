"""Whole parameters on every rank: DistributedDataParallel and ZeroRedundancyOptimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from cases_fsdp2 import my_part
from processes import case, refuses
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
    fp16_compress_hook,
)
from torch.nn.parallel import DistributedDataParallel
from training import (
    HOW,
    OPTIMIZERS,
    PLACES,
    Network,
    batches,
    loss_of,
    train_beside_centering_by_hand,
    train_beside_one_process,
)

import zeromean

with warnings.catch_warnings():
    # torch scripts its functional optimizers here, and calls that deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer


def replicate(model: nn.Module, hook: Any = None, **options: Any) -> nn.Module:
    ddp = DistributedDataParallel(model, **options)
    if hook is not None:
        ddp.register_comm_hook(None, hook)
    return ddp


def check(
    at: str, make: Callable[..., torch.optim.Optimizer] | None = None, **options: Any
) -> None:
    for each in OPTIMIZERS.values() if make is None else (make,):
        distribute = partial(replicate, **options)
        way = train_beside_one_process(Network(), distribute, each, at, my_part)
        assert way.name == "taken over"


def accumulate(model: Any, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    """A step in two half batches, the first without communication."""
    first, second = tokens.chunk(2)
    optimizer.zero_grad(set_to_none=False)
    with model.no_sync():
        (loss_of(model, first) / 2).backward()
    (loss_of(model, second) / 2).backward()
    optimizer.step()


def check_accumulation(at: str) -> None:
    distribute = partial(replicate, gradient_as_bucket_view=True)
    for make in OPTIMIZERS.values():
        train_beside_one_process(Network(), distribute, make, at, my_part, step=accumulate)


def check_compressed(at: str) -> None:
    distribute = partial(replicate, hook=fp16_compress_hook, gradient_as_bucket_view=True)
    # Rounding to half precision amplifies the different rounding of a step that is taken over.
    train_beside_centering_by_hand(Network(), distribute, at, my_part, fused=False)


def zero(parameters: Any, inner: Callable[..., Any], **options: Any) -> ZeroRedundancyOptimizer:
    return ZeroRedundancyOptimizer(parameters, inner, **options)


ZERO: dict[str, Callable[..., ZeroRedundancyOptimizer]] = {
    "SGD": partial(zero, inner=torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.05),
    "AdamW": partial(
        zero,
        inner=torch.optim.AdamW,
        lr=0.01,
        weight_decay=0.1,
        parameters_as_bucket_view=True,
    ),
}


def check_zero(at: str) -> None:
    for name, make in ZERO.items():
        train_beside_one_process(
            Network(), replicate, make, at, my_part, make_alone=OPTIMIZERS[name]
        )


def zero_with_less_than_a_parameter_a_rank() -> None:
    """Ranks without a parameter of their own neither warn nor wait."""
    model = replicate(nn.Linear(4, 3, bias=False))
    optimizer = zero(model.parameters(), torch.optim.SGD, lr=1.0)
    zeromean.centralize(optimizer, model)
    before = model.module.weight.detach().clone()
    model(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()
    change = model.module.weight.detach() - before
    torch.testing.assert_close(change.mean(1), torch.zeros(3))
    assert change.abs().max() > 1e-3


def zero_momentum_from_before() -> None:
    """The momentum lies in the inner optimizer of the rank that owns the parameter."""
    model = replicate(Network())
    optimizer = ZERO["SGD"](model.parameters())
    for tokens in batches(2):
        optimizer.zero_grad()
        loss_of(model, my_part(tokens)).backward()
        optimizer.step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        zeromean.centralize(optimizer, model).remove()
    warned = torch.tensor(any("momentum" in str(warning.message) for warning in caught))
    dist.all_reduce(warned, dist.ReduceOp.MAX)
    assert warned
    handle = zeromean.centralize(optimizer, model, project_state=True)
    rows = {id(row.parameter): row for row in handle.plan.centered}
    checked = torch.tensor(0)
    for parameter, state in optimizer.optim.state.items():
        row = rows.get(id(parameter))
        if row:
            buffer = state["momentum_buffer"]
            assert buffer.abs().max() > 0
            torch.testing.assert_close(buffer, zeromean.center(buffer, row.axes, row.groups))
            checked += 1
    dist.all_reduce(checked)
    assert checked == len(rows)


def post_local_sgd() -> None:
    """This wrapper steps through another optimizer too; the error names it, and that one works."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    model = Network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = PostLocalSGDOptimizer(inner, PeriodicModelAverager(period=2, warmup_steps=1))
    refuses(partial(zeromean.centralize, outer, model), "optimizer.optim")
    zeromean.centralize(inner, model)


for at in PLACES:
    for world in (2, 3):
        case(world, f"DDP at={at}", partial(check, at), ("DistributedDataParallel", at, HOW))
        case(
            world,
            f"ZeroRedundancyOptimizer at={at}",
            partial(check_zero, at),
            ("ZeroRedundancyOptimizer", at, HOW),
        )
    case(
        2,
        f"DDP no_sync at={at}",
        partial(check_accumulation, at),
        ("DistributedDataParallel: no_sync, gradient_as_bucket_view", at, HOW),
    )
    case(
        2,
        f"DDP hook at={at}",
        partial(check, at, hook=allreduce_hook, static_graph=True),
        ("DistributedDataParallel with a communication hook", at, HOW),
    )
    case(
        2,
        f"DDP compressed at={at}",
        partial(check_compressed, at),
        (
            "DistributedDataParallel with compressed gradients",
            at,
            "equal to centering by hand within 1e-6",
        ),
    )
for world in (2, 3):
    case(world, "ZeRO, a parameter for one rank only", zero_with_less_than_a_parameter_a_rank)
    case(world, "ZeRO, momentum from before", zero_momentum_from_before)
case(2, "PostLocalSGDOptimizer", post_local_sgd)

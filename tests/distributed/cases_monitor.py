"""The monitor in several processes: numbers of the whole tensor, written once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases_fsdp2 import even_axis_1, my_part, shard, shard_with_replicas
from cases_replicated import replicate
from processes import case, refuses
from torch import Tensor, nn
from training import OPTIMIZERS, Network, batches, loss_of, step_once

import zeromean
from zeromean.monitoring import LayerStatistics, Sample

STEPS = 4


def watch(
    model: nn.Module,
    at: str | None,
    part: Callable[[Tensor], Tensor],
    make: Callable[..., torch.optim.Optimizer],
) -> tuple[list[Sample], list[Sample]]:
    """What was written here, and what this rank's monitor knew."""
    optimizer = make(model.parameters())
    if at is not None:
        zeromean.centralize(optimizer, model, at=at, embeddings=True)  # type: ignore[arg-type]
    written: list[Sample] = []
    known = []
    monitor = zeromean.monitor(optimizer, model, every=2, to=written.append)
    for tokens in batches(STEPS):
        step_once(model, optimizer, part(tokens))
        known.append(monitor.last)
    return written, known


def check(at: str | None, distribute: Callable[[nn.Module], nn.Module]) -> None:
    make = OPTIMIZERS["AdamW"]
    alone = Network().double()
    model = distribute(copy.deepcopy(alone))
    expected, _ = watch(alone, at, lambda tokens: tokens, make)
    written, known = watch(model, at, my_part, make)
    assert len(written) == (2 if dist.get_rank() == 0 else 0)
    for found, aim in zip([known[0], known[2]], expected_of_all(expected), strict=True):
        same_numbers(aim, found)


def same_numbers(aim: Sample | None, found: Sample | None) -> tuple[LayerStatistics, ...]:
    """Compare one process's sample with that of all, and return the layers."""
    assert aim is not None
    assert found is not None
    for layer, other in zip(found.layers, aim.layers, strict=True):
        numbers, others = asdict(layer), asdict(other)
        assert numbers.pop("name").removeprefix("module.") == others.pop("name")
        assert numbers == pytest.approx(others, rel=1e-6, abs=1e-9), layer.name
    return found.layers


def expected_of_all(expected: list[Sample]) -> list[Sample]:
    """Rank 0 alone hears of samples, also of those of its own small training: it passes them on."""
    passed: list[Any] = [expected]
    dist.broadcast_object_list(passed, src=0)
    return passed[0]


class Branches(nn.Module):
    """A shared layer after one of two branches, which the number of the rank chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Tensor, rank: int) -> Tensor:
        return self.head(self.branches[rank](inputs).tanh())


def different_branches() -> None:
    """Each rank uses other parameters: a loss of the mean over ranks uses them all."""
    alone = Branches().double()
    model = replicate(copy.deepcopy(alone), find_unused_parameters=True)
    inputs = torch.randn(2, 5, 4).double()
    samples: list[Sample | None] = []
    for one in (alone, model):
        optimizer = OPTIMIZERS["AdamW"](one.parameters())
        zeromean.centralize(optimizer, one, at="backward")
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)
        ranks = range(2) if one is alone else [dist.get_rank()]
        sum(one(inputs[rank], rank).square().mean() / len(ranks) for rank in ranks).backward()
        optimizer.step()
        samples.append(monitor.last)
    assert len(same_numbers(*samples)) == 3


def scaled_gradients() -> None:
    """What a gradient scaler multiplies before the backward pass, and divides before the step."""
    alone = Network().double()
    model = replicate(copy.deepcopy(alone))
    (tokens,) = batches(1)
    samples: list[Sample | None] = []
    for one, part, scale in ((alone, tokens, 1), (model, my_part(tokens), 2**16)):
        optimizer = OPTIMIZERS["AdamW"](one.parameters())
        zeromean.centralize(optimizer, one, at="backward")
        monitor = zeromean.monitor(optimizer, one, to=lambda sample: None)
        (loss_of(one, part) * scale).backward()
        for p in one.parameters():
            if p.grad is not None:
                p.grad /= scale
        optimizer.step()
        samples.append(monitor.last)
    same_numbers(*samples)


def fsdp1() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(Network(), device_id=torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters())
    refuses(partial(zeromean.monitor, optimizer, model, to=print), "FSDP1", "fully_shard")


HOW = "every number equal to one process's on the whole batch within 1e-6"
for at in (None, "gradient", "update", "backward"):
    where = at or "-"
    case(2, f"monitor DDP at={at}", partial(check, at, replicate),
         ("the monitor under DistributedDataParallel", where, HOW))  # fmt: skip
    for world in (2, 3):
        case(world, f"monitor FSDP2 at={at}", partial(check, at, shard),
             ("the monitor under FSDP2: uneven and empty shards", where, HOW))  # fmt: skip
    case(2, f"monitor FSDP2 on axis 1 at={at}",
         partial(check, at, partial(shard, shard_placement_fn=even_axis_1)),
         ("the monitor under FSDP2 sharding the fan-in axis", where, HOW))  # fmt: skip
case(4, "monitor HSDP", partial(check, "gradient", shard_with_replicas),
     ("the monitor under FSDP2 with replicas (HSDP)", "gradient", HOW))  # fmt: skip
case(2, "monitor DDP with other parameters on each rank", different_branches,
     ("the monitor under DistributedDataParallel, unused parameters", "backward", HOW))  # fmt: skip
case(2, "monitor DDP with scaled gradients", scaled_gradients)
case(2, "monitor FSDP1", fsdp1, ("the monitor under FSDP1", "-", "refused; the error says why"))

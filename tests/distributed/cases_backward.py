"""at="backward": centered on every rank before gradients are averaged, because P is linear."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases_fsdp2 import my_part, shard, shard_with_replicas
from cases_replicated import ZERO, accumulate, replicate
from processes import case, refuses
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from training import OPTIMIZERS, Network, batches, loss_of, train_beside_one_process

import zeromean

HOW = "equal to one process within 1e-6 after 20 steps of AdamW"
ADAMW = OPTIMIZERS["AdamW"]


def check(
    distribute: Callable[[nn.Module], nn.Module],
    step: Callable[[nn.Module, torch.optim.Optimizer, Tensor], None] | None = None,
) -> None:
    more = {} if step is None else {"step": step}
    train_beside_one_process(Network(), distribute, ADAMW, "backward", my_part, **more)


def check_zero() -> None:
    train_beside_one_process(
        Network(), replicate, ZERO["AdamW"], "backward", my_part, make_alone=ADAMW
    )


def a_part_of_the_parameters() -> None:
    """What one rank's optimizer does not hold, that rank would not center before the average."""
    model = replicate(Network())
    optimizer = ZERO["AdamW"](model.parameters())
    refuses(partial(zeromean.centralize, optimizer.optim, model, at="backward"), 'at="gradient"')


class Attention(nn.Module):
    """Attention reads its output projection's weight without calling that layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        return self.head(h + self.attention(h, h, h, need_weights=False)[0]).mean(1)


def flatten(model: nn.Module) -> FullyShardedDataParallel:
    wrap = partial(FullyShardedDataParallel, use_orig_params=True, device_id=torch.device("cpu"))
    model.attention = wrap(model.attention)
    return wrap(model)


def check_fsdp1(accumulated: bool) -> None:
    alone, model = Attention().double(), Attention().double()
    model.load_state_dict(alone.state_dict())
    model = flatten(model)
    optimizer, optimizer_alone = ADAMW(model.parameters()), ADAMW(alone.parameters())
    plan = zeromean.centralize(optimizer, model, at="backward", embeddings=True).plan
    plan_alone = zeromean.centralize(optimizer_alone, alone, embeddings=True).plan
    assert sorted(row.shape for row in plan.centered) == sorted(
        row.shape for row in plan_alone.centered
    )
    for tokens in batches():
        optimizer_alone.zero_grad()
        loss_of(alone, tokens).backward()
        optimizer_alone.step()
        if accumulated:
            accumulate(model, optimizer, my_part(tokens))
        else:
            optimizer.zero_grad()
            loss_of(model, my_part(tokens)).backward()
            optimizer.step()
    with FullyShardedDataParallel.summon_full_params(model):
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    optimizer.load_state_dict(optimizer.state_dict())


for world in (2, 3):
    case(
        world,
        "DDP in backward",
        partial(check, replicate),
        ("DistributedDataParallel", "backward", HOW),
    )
    case(world, "FSDP2 in backward", partial(check, shard), ("FSDP2", "backward", HOW))
    case(
        world,
        "FSDP1 in backward",
        partial(check_fsdp1, False),
        ("FSDP1 (`use_orig_params=True`)", "backward", HOW),
    )
case(
    2,
    "DDP no_sync in backward",
    partial(check, partial(replicate, gradient_as_bucket_view=True), accumulate),
    ("DistributedDataParallel: no_sync, gradient_as_bucket_view", "backward", HOW),
)
case(
    2, "FSDP1 no_sync in backward", partial(check_fsdp1, True), ("FSDP1: no_sync", "backward", HOW)
)
case(2, "ZeRO in backward", check_zero, ("ZeroRedundancyOptimizer", "backward", HOW))
case(2, "ZeRO's inner optimizer in backward", a_part_of_the_parameters)
case(
    4,
    "HSDP in backward",
    partial(check, shard_with_replicas),
    ("FSDP2 with replicas (HSDP)", "backward", HOW),
)

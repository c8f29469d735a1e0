"""What is sent: nothing where no fan-in axis is sharded, else one message a mesh dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from cases_fsdp2 import my_part, shard
from cases_tensor_parallel import my_half, parallelize, parallelize_and_shard
from processes import case
from torch import Tensor, nn
from torch.distributed.tensor.debug import CommDebugMode
from training import PLACES, Network, Perceptron, batches, loss_of, step_once, whole

import zeromean


def collectives(optimizer: torch.optim.Optimizer) -> Counter[str]:
    """How many of each kind one step of the optimizer makes."""
    with CommDebugMode() as messages:
        optimizer.step()
    return Counter({str(kind): number for kind, number in messages.get_comm_counts().items()})


def check_number(
    make_model: Callable[[], nn.Module],
    distribute: Callable[[nn.Module], nn.Module],
    part: Callable[[Tensor], Tensor],
    at: Any,
    expected: int,
) -> None:
    """SGD with coupled decay: weights and gradients have to be averaged."""
    model = distribute(make_model().double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    loss_of(model, part(next(batches()))).backward()
    assert collectives(optimizer).total() == 0  # the plain optimizer sends nothing itself
    zeromean.centralize(optimizer, model, at=at, embeddings=True)
    found = collectives(optimizer)
    assert found.total() == expected, found
    assert all("reduce" in kind for kind in found), found


class Rows(nn.Module):
    """Nothing but layers whose fan-in axes FSDP2 leaves whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 5, 3)
        self.linear = nn.Linear(5, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.linear(self.conv(tokens.double()[:, None]).mean(-1)).tanh())


for at in PLACES:
    # The whole change of the weights needs their means before the step and after it.
    times = {"gradient": 1, "update": 2}[at]
    for world in (2, 3):
        case(
            world,
            f"no message at={at}",
            partial(check_number, Rows, shard, my_part, at, 0),
            ("FSDP2, fan-in axes whole", at, "no collective in a step"),
        )
        case(
            world,
            f"one message at={at}",
            partial(check_number, Network, shard, my_part, at, times),
            (
                "FSDP2, fan-in axes sharded",
                at,
                {1: "one", 2: "two"}[times] + " all-reduce a step and mesh dimension",
            ),
        )
    case(
        2,
        f"one message under tensor parallelism at={at}",
        partial(check_number, Perceptron, parallelize, lambda tokens: tokens, at, times),
    )
    case(
        4,
        f"one message a mesh dimension at={at}",
        partial(check_number, Perceptron, parallelize_and_shard, my_half, at, 2 * times),
    )


def absent_gradient() -> None:
    """A gradient that is missing on one rank is zero there, and nobody waits for it forever."""
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    model = parallelize(Perceptron(dist.get_world_size() * 2))
    weight = model.down.weight  # sharded on its fan-in axis
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    zeromean.centralize(optimizer, model)
    for _ in range(2):
        before = weight.detach().to_local().clone()
        optimizer.zero_grad()
        loss_of(model.float(), next(batches()).float().long()).backward()
        expected = weight.grad.full_tensor().clone()
        expected[:, 2 * last :] = 0
        expected = zeromean.center(expected, axes=1)[:, 2 * rank : 2 * rank + 2]
        if rank == last:
            weight.grad = None
            expected = torch.zeros_like(expected)
        optimizer.step()
        torch.testing.assert_close(before - weight.detach().to_local(), expected)


def absent_everywhere() -> None:
    model = shard(Network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model)
    before = [whole(p).clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(whole(p), q) for p, q in zip(model.parameters(), before, strict=True))


def momentum_from_before() -> None:
    """project_state, and its warning, with every rank taking part."""
    model = shard(Network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for tokens in batches(2):
        step_once(model, optimizer, my_part(tokens))
    handle = zeromean.centralize(optimizer, model, project_state=True)
    for row in handle.plan.centered:
        buffer = optimizer.state[row.parameter]["momentum_buffer"].full_tensor()
        assert buffer.abs().max() > 0
        torch.testing.assert_close(buffer, zeromean.center(buffer, row.axes, row.groups))


def half_precision() -> None:
    """bfloat16 weights keep their mean within a rounding step, sharded or not."""
    model = shard(Network().bfloat16())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    handle = zeromean.centralize(optimizer, model, at="update")
    means = {row.name: _means(row) for row in handle.plan.centered}
    for tokens in batches():
        optimizer.zero_grad()
        loss = (model(my_part(tokens)) - my_part(tokens).bfloat16().mean(1, True)).square().mean()
        loss.backward()
        optimizer.step()
    for row in handle.plan.centered:
        drift = (_means(row) - means[row.name]).abs().max()
        assert drift < 2**-8 * whole(row.parameter).abs().max(), (row.name, drift)


def _means(row: Any) -> Tensor:
    x = whole(row.parameter).float()
    return x - zeromean.center(x, row.axes, row.groups)


for world in (2, 3):
    case(world, "a gradient absent on one rank", absent_gradient)
    case(world, "gradients absent everywhere", absent_everywhere)
    case(world, "momentum from before", momentum_from_before)
    case(
        world,
        "bfloat16 weights",
        half_precision,
        (
            "FSDP2, bfloat16 weights",
            "update",
            "means drift less than one rounding step in 20 steps of AdamW",
        ),
    )

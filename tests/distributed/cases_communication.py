"""What is sent: nothing where no fan-in axis is sharded, else one message a mesh dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases_fsdp2 import my_part, shard
from cases_tensor_parallel import my_half, parallelize, parallelize_and_shard
from processes import case
from torch import Tensor, nn
from torch.distributed.tensor.debug import CommDebugMode
from training import (
    PLACES,
    Network,
    Perceptron,
    assert_same,
    batches,
    loss_of,
    step_once,
    whole,
)

import zeromean
import zeromean.optim


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


DROP_INS = {
    "SGD": partial(zeromean.optim.SGD, lr=0.1, weight_decay=0.1),
    "AdamW": partial(zeromean.optim.AdamW, lr=0.1),
    "RMSprop": partial(zeromean.optim.RMSprop, lr=0.1),
}


def check_number_of_drop_in(name: str, model: nn.Module, at: str, expected: int) -> None:
    """The centering inside the step sends what the hooks around a step would."""
    model = model.double()
    groups = [{"params": [p]} for p in model.parameters()]
    optimizer = DROP_INS[name](groups, model=model, at=at, embeddings=True)
    loss_of(model, next(batches())).backward()
    found = collectives(optimizer)
    assert found.total() == expected, found


def absent_gradient_of_a_drop_in(name: str, at: str) -> None:
    """The drop-in's step is that of torch's class centralized, also on the rank without one."""
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    models = [parallelize(Perceptron(dist.get_world_size() * 2)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizer = DROP_INS[name](models[0], at=at)
    twin = getattr(torch.optim, name)(models[1].parameters(), **DROP_INS[name].keywords)
    zeromean.centralize(twin, models[1], at=at)
    for step, tokens in enumerate(batches(4)):
        for model, stepped in zip(models, (optimizer, twin), strict=True):
            before = model.down.weight.detach().to_local().clone()
            stepped.zero_grad()
            loss_of(model, tokens).backward()
            if rank == last and step != 1:
                model.down.weight.grad = None
            stepped.step()
            if rank == last and step == 0:
                moved = not torch.equal(model.down.weight.detach().to_local(), before)
                assert moved == (at == "update")  # it gives the mean of all ranks' change back
        assert_same(models[0], models[1], 1e-12)


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
    with pytest.warns(zeromean.ZeromeanWarning, match="momentum of earlier steps"):
        zeromean.centralize(optimizer, model).remove()
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


def half_precision_of_a_drop_in() -> None:
    """The residual is of the vectors that a rank holds, the padding row left out."""
    model = shard(Network().bfloat16())
    optimizer = zeromean.optim.AdamW(model, lr=0.01, at="update", embeddings=True)
    means = {row.name: _means(row) for row in optimizer.plan.centered}
    for tokens in batches():
        optimizer.zero_grad()
        loss = (model(my_part(tokens)) - my_part(tokens).bfloat16().mean(1, True)).square().mean()
        loss.backward()
        optimizer.step()
    for row in optimizer.plan.centered:
        drift = (_means(row) - means[row.name])[whole(row.parameter) != 0].abs().max()
        assert drift < 2**-8 * whole(row.parameter).abs().max(), (row.name, drift)


def _means(row: Any) -> Tensor:
    x = whole(row.parameter).float()
    return x - zeromean.center(x, row.axes, row.groups)


for world in (2, 3):
    case(world, "a gradient absent on one rank", absent_gradient)
    case(world, "gradients absent everywhere", absent_everywhere)
    for at in PLACES:
        for name in DROP_INS:
            # Before the step and after it, where the hooks stand; inside, the change is known.
            times = 2 if (name, at) == ("RMSprop", "update") else 1
            case(
                world,
                f"one message of {name} at={at}",
                lambda name=name, at=at, times=times: check_number_of_drop_in(
                    name, shard(Network()), at, times
                ),
                (
                    f"zeromean.optim.{name}, fan-in axes sharded by FSDP2",
                    at,
                    f"{'one' if times == 1 else 'two'} all-reduce a step, whatever the groups",
                ),
            )
            case(
                world,
                f"a gradient absent on one rank, {name} at={at}",
                partial(absent_gradient_of_a_drop_in, name, at),
                (
                    f"zeromean.optim.{name}, a gradient missing on one rank",
                    at,
                    "equal to torch's class centralized",
                ),
            )
    case(world, "bfloat16 weights of a drop-in", half_precision_of_a_drop_in)
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

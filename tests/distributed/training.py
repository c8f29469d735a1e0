"""The same training in one process and in several, and what both should come to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

import zeromean
from zeromean.centralization.fused_step import Way

STEPS = 20
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
PLACES = ("gradient", "update")
HOW = "equal to one process within 1e-6 after 20 steps of SGD and AdamW"


class Network(nn.Module):
    """Fan-in axes of every kind, of sizes that do not divide by the numbers of processes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=2)
        self.up = nn.ConvTranspose1d(6, 4, 3, groups=2)
        self.conv = nn.Conv1d(4, 5, 3)
        self.linear = nn.Linear(5, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.up(self.embed(tokens).mT).tanh()).tanh().mean(-1)
        return self.head(self.linear(x).tanh())


class Perceptron(nn.Module):
    """What tensor parallelism is used on: a vocabulary, one layer split by rows, one by columns."""

    def __init__(self, hidden: int = 8, vocabulary: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 6, padding_idx=4)
        self.up = nn.Linear(6, hidden)
        self.down = nn.Linear(hidden, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down(self.up(self.embed(tokens).mean(1)).tanh()).tanh()


def batches(steps: int = STEPS) -> Iterator[Tensor]:
    """The same on every rank; 12 divides by every number of processes used."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randint(7, (12, 5), generator=generator)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    target = tokens.double().std(1, keepdim=True)
    return (model(tokens) - target).square().mean()


def step_once(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    optimizer.zero_grad()
    loss_of(model, tokens).backward()
    optimizer.step()


def whole(x: Tensor) -> Tensor:
    """All of a tensor, wherever it is."""
    x = x.detach()
    return x.full_tensor() if isinstance(x, DTensor) else x


def assert_same(model: nn.Module, alone: nn.Module, atol: float = 1e-6) -> None:
    # A wrapper may prefix the names.
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(whole(p), whole(q), rtol=0, atol=atol, msg=lambda m: name + m)  # noqa: B023


def train_beside_one_process(
    model: nn.Module,
    distribute: Callable[[nn.Module], nn.Module],
    make: Callable[..., torch.optim.Optimizer],
    at: Any,
    part: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    *,
    make_alone: Callable[..., torch.optim.Optimizer] | None = None,
    step: Callable[[nn.Module, torch.optim.Optimizer, Tensor], None] = step_once,
    **options: Any,
) -> Way:
    """Train 20 steps distributed, and alone in two passes on the whole batch, to the same weights.

    ``part`` is what of a batch this rank sees, ``step`` what is done with it. Returns how the steps
    were made when distributed.
    """
    options = {"embeddings": True, **options}
    alone = model.double()
    start = copy.deepcopy(alone)
    model = distribute(copy.deepcopy(alone))
    optimizer, optimizer_alone = make(model.parameters()), (make_alone or make)(alone.parameters())
    handle = zeromean.centralize(optimizer, model, at=at, **options)
    fused = None if at == "backward" else False
    plan_alone = zeromean.centralize(optimizer_alone, alone, at=at, fused=fused, **options).plan
    assert [(row.shape, row.fan_in, row.centered) for row in handle.plan] == [
        (row.shape, row.fan_in, row.centered) for row in plan_alone
    ]
    for tokens in batches():
        step(model, optimizer, part(tokens))
        step_once(alone, optimizer_alone, tokens)
    assert_same(model, alone)
    assert all(
        not torch.equal(p, q) for p, q in zip(alone.parameters(), start.parameters(), strict=True)
    )
    return handle.way


def train_beside_centering_by_hand(
    model: nn.Module,
    distribute: Callable[[nn.Module], nn.Module],
    at: Any,
    part: Callable[[Tensor], Tensor],
    **options: Any,
) -> None:
    """Train 20 steps with the hooks, and the same steps with whole tensors centered one by one."""
    other = distribute(copy.deepcopy(model))
    model = distribute(model)
    make = OPTIMIZERS["AdamW"]
    optimizer, plain = make(model.parameters()), make(other.parameters())
    zeromean.centralize(optimizer, model, at=at, **options)
    rows = {id(row.parameter): row for row in zeromean.explain(other).centered}
    for tokens in batches():
        step_once(model, optimizer, part(tokens))
        plain.zero_grad()
        loss_of(other, part(tokens)).backward()
        before = {p: whole(p).clone() for p in other.parameters()}
        for p in other.parameters():
            if at == "gradient" and id(p) in rows:
                assert p.grad is not None
                _put(p.grad, _center(whole(p.grad), rows[id(p)]))
        plain.step()
        for p in other.parameters():
            if at == "update" and id(p) in rows:
                _put(p, before[p] + _center(whole(p) - before[p], rows[id(p)]))
    assert_same(model, other)


def _center(x: Tensor, row: Any) -> Tensor:
    return zeromean.center(x, row.axes, row.groups)


@torch.no_grad()
def _put(x: Tensor, value: Tensor) -> None:
    if isinstance(x, DTensor):
        x.to_local().copy_(distribute_tensor(value, x.device_mesh, x.placements).to_local())
    else:
        x.copy_(value)

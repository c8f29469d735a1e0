"""Tensor parallelism, alone and under FSDP2, and DTensors placed by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from processes import case, refuses
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from training import HOW, OPTIMIZERS, PLACES, Perceptron, train_beside_one_process

import zeromean
from zeromean import kernels


def one_dimension() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def parallelize(model: nn.Module, mesh: DeviceMesh | None = None) -> nn.Module:
    plan = {
        "embed": RowwiseParallel(input_layouts=Replicate()),  # the vocabulary
        "up": ColwiseParallel(use_local_output=False),
        "down": RowwiseParallel(),
    }
    return parallelize_module(model, one_dimension() if mesh is None else mesh, plan)


def parallelize_and_shard(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    fully_shard(parallelize(model, mesh["tensor"]), mesh=mesh["data"])
    for layer, expected in {
        "embed": "_StridedShard Shard",
        "up": "_StridedShard Shard",
        "down": "Shard Shard",
    }.items():
        placements = model.get_parameter(f"{layer}.weight").placements  # type: ignore[attr-defined]
        assert " ".join(type(placement).__name__ for placement in placements) == expected
    return model


def my_half(tokens: Tensor) -> Tensor:
    return tokens.chunk(2)[dist.get_rank() // 2]  # rows of the 2x2 mesh share a batch


def check(
    make_model: Callable[[], nn.Module],
    distribute: Callable[[nn.Module], nn.Module],
    at: str,
    part: Callable[[Tensor], Tensor] = lambda tokens: tokens,
) -> None:
    for make in OPTIMIZERS.values():
        train_beside_one_process(make_model(), distribute, make, at, part)


class Replicated(nn.Module):
    """Data parallelism by DTensor itself: its gradients are partial, one summand a rank."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(5, 6)
        self.down = nn.Linear(6, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        if isinstance(self.up.weight, DTensor):
            tokens = distribute_tensor(tokens, self.up.weight.device_mesh, [Shard(0)])
        out = self.down(self.up(tokens.double()).tanh())
        return out.full_tensor() if isinstance(out, DTensor) else out


def replicate(model: nn.Module) -> nn.Module:
    return distribute_module(model, one_dimension())


for at in PLACES:
    for world in (2, 3):
        hidden = {2: 8, 3: 7}[world]
        case(
            world,
            f"tensor parallel at={at}",
            partial(check, partial(Perceptron, hidden), parallelize, at),
            ("Tensor parallel: Colwise, Rowwise, sharded vocabulary", at, HOW),
        )
    case(
        4,
        f"2D at={at}",
        partial(check, Perceptron, parallelize_and_shard, at, my_half),
        ("FSDP2 with tensor parallel (2D)", at, HOW),
    )
    case(
        4,
        f"uneven 2D at={at}",
        partial(check, partial(Perceptron, 7, 9), parallelize_and_shard, at, my_half),
        ("FSDP2 with tensor parallel (2D), uneven", at, HOW),
    )
    case(
        2,
        f"partial gradients at={at}",
        partial(check, Replicated, replicate, at),
        ("DTensor data parallel: partial gradients", at, HOW),
    )


def reductions() -> None:
    """The mean of a partial tensor is that of its sum or average; the shift is shared out."""
    mesh, rank = one_dimension(), dist.get_rank()
    fan_in = zeromean.FanIn((1,))
    for reduction in ("sum", "avg"):
        local = torch.arange(6.0).view(2, 3) * (rank + 1) + rank
        x = DTensor.from_local(local, mesh, [Partial(reduction)])
        expected = zeromean.center(x.full_tensor(), axes=1)
        kernels.center_([x], [fan_in])
        torch.testing.assert_close(x.full_tensor(), expected)
    x = DTensor.from_local(torch.ones(2, 3), mesh, [Partial("max")])
    refuses(lambda: kernels.center_([x], [fan_in]), "Redistribute")


def complex_and_pending() -> None:
    """Complex sums and float32 ones go in one message; a tensor may still be on its way."""
    mesh = one_dimension()
    fan_ins = [zeromean.FanIn((0,)), zeromean.FanIn((0, 1))]
    whole = [torch.randn(5, 3, dtype=torch.complex64), torch.randn(5, 3)]
    xs = [distribute_tensor(x, mesh, [Replicate()]) for x in whole]
    xs = [x.redistribute(placements=[Shard(0)], async_op=True) for x in xs]
    kernels.center_(xs, fan_ins)
    for x, before, fan_in in zip(xs, whole, fan_ins, strict=True):
        torch.testing.assert_close(x.full_tensor(), zeromean.center(before, fan_in.axes))
    partly = DTensor.from_local(torch.randn(4, 3), mesh, [Partial()])
    expected = zeromean.center(partly.full_tensor(), 1)
    pending = partly.redistribute(placements=[Replicate()], async_op=True)
    kernels.center_([pending], fan_ins=[zeromean.FanIn((1,))])
    torch.testing.assert_close(pending.full_tensor(), expected)


def center_keeps_autograd() -> None:
    mesh = one_dimension()
    whole = torch.randn(5, 4, dtype=torch.float64)
    for axes in (0, 1):
        x = distribute_tensor(whole, mesh, [Shard(0)]).requires_grad_()
        y = zeromean.center(x, axes)
        torch.testing.assert_close(y.full_tensor(), zeromean.center(whole, axes))
        y.square().sum().backward()
        torch.testing.assert_close(x.grad.full_tensor(), 2 * zeromean.center(whole, axes))


for world in (2, 3):
    case(world, "partial tensors", reductions)
    case(world, "complex and pending tensors", complex_and_pending)
    case(world, "center keeps autograd", center_keeps_autograd)

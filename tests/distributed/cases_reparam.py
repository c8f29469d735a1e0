"""Re-parametrized models in several processes: DDP, FSDP2, and the order that cannot be."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from cases_fsdp2 import my_part, shard
from processes import case, refuses
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from training import OPTIMIZERS, Network, batches, loss_of, train_beside_one_process

import zeromean

HOW = "equal to one process within 1e-6 after 20 steps of AdamW"


def check(method: Any, distribute: Any, **options: Any) -> None:
    model = Network().double()
    zeromean.reparametrize(model, method, **options)
    train_beside_one_process(model, distribute, OPTIMIZERS["AdamW"], "gradient", my_part)


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def shard_then_reparametrize() -> None:
    model = fully_shard(Network(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    refuses(lambda: zeromean.reparametrize(model, "cwn"), "already sharded", "fully_shard")
    refuses(lambda: zeromean.fold(model), "already sharded")


def wrap_then_reparametrize() -> None:
    model = DistributedDataParallel(Network())
    refuses(lambda: zeromean.reparametrize(model, "cwn"), "DistributedDataParallel", "then wrap it")


def shard_nnn() -> None:
    model = Network()
    zeromean.reparametrize(model, "nnn")
    model = shard(model)
    refuses(lambda: loss_of(model, next(batches())), "fully_shard", '"cwn"')


def mixed_precision() -> None:
    """The gains and proxies are gathered in bfloat16; the weight is computed in float32."""
    model = Network()
    zeromean.reparametrize(model, "cwn")
    weights: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def compare(layer: Any, *_: object) -> None:
        originals = layer.parametrizations.weight
        x = zeromean.center(originals.original1.float(), 1)
        exact = originals.original0.float() * x / x.norm(dim=1, keepdim=True)
        weights.append((layer.weight, exact.bfloat16()))

    model.linear.register_forward_hook(compare)
    model = shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(next(batches())).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert len(weights) == 5
    for weight, expected in weights:
        torch.testing.assert_close(weight, expected, rtol=2**-7, atol=1e-6)


for method in ("wn", "cwn", "ws"):
    case(2, f"{method}, DDP", partial(check, method, ddp), (f"{method} under DDP", "-", HOW))
    case(
        2,
        f"{method}, FSDP2",
        partial(check, method, shard),
        (f"{method}, then fully_shard", "-", HOW),
    )
case(2, "cwn, FSDP2 by layer", partial(check, "cwn", partial(shard, by_layer=True)))
case(2, "cwn, kept mean, FSDP2", partial(check, "cwn", shard, mean="keep"))
case(2, "cwn, fixed scale, FSDP2", partial(check, "cwn", shard, scale=1.5))
case(2, "nnn, DDP", partial(check, "nnn", ddp, every=3), ("nnn under DDP", "-", HOW))
case(2, "cwn, FSDP2 in bfloat16", mixed_precision)
case(
    2,
    "fully_shard before reparametrize",
    shard_then_reparametrize,
    ("fully_shard, then reparametrize", "-", "refused, with the way out"),
)
case(2, "DDP before reparametrize", wrap_then_reparametrize)
case(
    2, "nnn, FSDP2", shard_nnn, ("nnn, then fully_shard", "-", "refused at the first training step")
)

"""What hides a weight's rows from the optimizer is refused, and the error names the way out."""

from __future__ import annotations

import warnings
from functools import partial

import torch
import torch.distributed as dist
from cases_fsdp2 import my_part, shard
from cases_replicated import ZeroRedundancyOptimizer
from processes import case, refuses
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from training import PLACES, Network, Perceptron, batches, loss_of

import zeromean


def fsdp1() -> None:
    for use_orig_params in (True, False):
        inner = Network()
        with warnings.catch_warnings():
            # torch calls FSDP1 deprecated, and warns that it runs on a CPU.
            warnings.simplefilter("ignore")
            model = FullyShardedDataParallel(
                inner, use_orig_params=use_orig_params, device_id=torch.device("cpu")
            )
        optimizer = torch.optim.AdamW(model.parameters())
        for at in PLACES:
            for given in (model, inner, None):
                refuses(
                    partial(zeromean.centralize, optimizer, given, at=at),
                    "FSDP1",
                    "fully_shard",
                    'at="backward"',
                )


def made_before_sharding() -> None:
    """An optimizer keeps the parameters that fully_shard took out of the model."""
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters())
    zeromean.centralize(optimizer, model)
    shard(model)
    loss_of(model, my_part(next(batches()))).backward()
    refuses(optimizer.step, "create the optimizer after", "fully_shard")
    refuses(
        partial(zeromean.centralize, torch.optim.SGD(list(Network().parameters())), model),
        "create the optimizer after",
    )


def made_before_sharding_a_layer() -> None:
    """Where some parameters stay, a warning counts those that do not."""
    model = Perceptron()
    optimizer = torch.optim.AdamW(model.parameters())
    zeromean.centralize(optimizer, model)
    fully_shard(model.up)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
        optimizer.step()
    (warning,) = caught
    assert "2 of the optimizer's parameters" in str(warning.message)


def after_a_forward_pass_alone() -> None:
    """FSDP2 leaves whole parameters in the model then; its sharded ones are found again."""
    model = shard(Network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = my_part(next(batches()))

    def look() -> None:
        with torch.no_grad():
            loss_of(model, tokens)
        assert not any(isinstance(p, DTensor) for p in model.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        return loss

    look()
    handle = zeromean.centralize(optimizer, model)
    assert len(handle.plan.centered) == 4
    look()
    optimizer.step(closure)
    for row in handle.plan.centered:
        gradient = row.parameter.grad.full_tensor()
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, zeromean.center(gradient, row.axes, row.groups))


def parameters_put_in_place() -> None:
    """A trainer that gives the optimizer the new parameters gets a new plan."""
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    handle = zeromean.centralize(optimizer, model)
    shard(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    loss_of(model, my_part(next(batches()))).backward()
    optimizer.step()
    for row in handle.plan.centered:
        gradient = row.parameter.grad.full_tensor()
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, zeromean.center(gradient, row.axes, row.groups))


def overlapping_zero() -> None:
    model = DistributedDataParallel(nn.Linear(4, 3))
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.SGD, lr=0.1, overlap_with_ddp=True
    )
    refuses(partial(zeromean.centralize, optimizer, model), "overlap_with_ddp=False")


def gradient_norms() -> None:
    model = shard(Network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    refuses(partial(zeromean.diagnose.gradient_norms, optimizer, model=model), "zeromean.monitor")
    assert not optimizer._optimizer_step_pre_hooks


def flat_partitions() -> None:
    """What DeepSpeed ZeRO does to an optimizer: one flat tensor, cut, in place of the weights."""
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters())
    zeromean.centralize(optimizer, model)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    part = flat.chunk(dist.get_world_size())[dist.get_rank()].clone().requires_grad_()
    optimizer.param_groups[0]["params"] = [part]
    refuses(optimizer.step, "DeepSpeed ZeRO", "FSDP2")
    # After deepspeed.initialize: its wrapper, and what stage 3 writes to a parameter.
    wrapper = type("DeepSpeedOptimizer", (), {"__module__": "deepspeed.runtime.base_optimizer"})
    refuses(partial(zeromean.centralize, wrapper(), model), "flat partitions", "FSDP2")
    optimizer = torch.optim.AdamW(model.parameters())
    model.head.weight.ds_id = 0
    refuses(partial(zeromean.centralize, optimizer, model), "flat partitions", "FSDP2")


case(2, "FSDP1", fsdp1, ("FSDP1", "gradient, update", "refused; the error names the way out"))
case(
    2,
    "optimizer made before fully_shard",
    made_before_sharding,
    ("Optimizer made before `fully_shard`", "-", "refused at its first step"),
)
case(2, "optimizer made before fully_shard of a layer", made_before_sharding_a_layer)
case(2, "after a forward pass alone", after_a_forward_pass_alone)
case(2, "parameters put in place", parameters_put_in_place)
case(2, "gradient norms", gradient_norms)
case(
    2,
    "ZeroRedundancyOptimizer(overlap_with_ddp=True)",
    overlapping_zero,
    ("ZeroRedundancyOptimizer(overlap_with_ddp=True)", "-", "refused; the error says why"),
)
case(
    2,
    "flat partitions",
    flat_partitions,
    ("Flat partitions as of DeepSpeed ZeRO", "-", "refused; the error names the way out"),
)

"""Center weight vectors that are spread over ranks, as parts of a DTensor.

Every rank sums its local part. If a fan-in axis is sharded, the sums of all tensors are added in
one all-reduce per mesh dimension; otherwise nothing is sent. Placements and shapes alone decide who
takes part, never data, so ranks cannot disagree. DTensor's own ``mean`` and ``sub_`` would
communicate tensor by tensor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(x: Tensor) -> TypeGuard[DTensor]:
    """Return whether ``x`` is a DTensor."""
    return isinstance(x, _imported("torch.distributed.tensor", "DTensor"))


def local_part(x: Tensor) -> Tensor:
    """Return this rank's part of ``x``, sharing its memory; all of it if it is not sharded."""
    if not is_sharded(x):
        return x
    local = x.to_local()
    # A redistributed tensor may still be in transfer.
    return local.wait() if hasattr(local, "wait") else local


def reshard(model: nn.Module) -> None:
    """Restore the sharded parameters of an FSDP2 model; a forward pass alone leaves whole ones."""
    fsdp2 = _imported("torch.distributed.fsdp", "FSDPModule")
    for module in model.modules():
        if isinstance(module, fsdp2):
            module.reshard()


def rows_here(x: Tensor) -> range:
    """Return the indices of axis 0 that this rank holds."""
    rows = range(x.shape[0])
    if is_sharded(x):
        for ranks, rank in _splits(x):
            length = -(-len(rows) // ranks)  # like torch.chunk: the last may get fewer
            rows = rows[rank * length : (rank + 1) * length]
    return rows


def summed_over_ranks(x: Tensor, fan_in: FanIn) -> bool:
    """Return whether weight vectors of ``x`` lie on several ranks, which wait for each other."""
    return next(_process_groups(x, fan_in), None) is not None


def gradient_of(parameter: Tensor, fan_in: FanIn | None) -> Tensor | None:
    """Return a parameter's gradient; zeros if it has none here but other ranks wait for it."""
    if parameter.grad is None and fan_in is not None and summed_over_ranks(parameter, fan_in):
        return torch.zeros_like(parameter)
    return parameter.grad


def sum_over_ranks(
    totals: Sequence[Tensor], tensors: Sequence[Tensor], fan_ins: Sequence[FanIn]
) -> None:
    """Add the sums over each rank's part of ``tensors`` over all ranks, in place."""
    parts: dict[Any, tuple[str, list[Tensor]]] = {}  # process group -> (its device, its sums)
    for total, x, fan_in in zip(totals, tensors, fan_ins, strict=True):
        if is_sharded(x):
            copies = _copies(x, "avg")
            if copies > 1:
                total.div_(copies)
            for group in _process_groups(x, fan_in):
                parts.setdefault(group, (x.device_mesh.device_type, []))[1].append(total)
    for group, (device, sums) in parts.items():
        _all_reduce(sums, group, device)


def reduce_over_shards(
    numbers: Sequence[Tensor], tensors: Sequence[Tensor], largest: bool = False
) -> None:
    """Reduce numbers that describe each rank's part of ``tensors`` to the whole, in place.

    Numbers are summed, or with ``largest`` the maximum is taken. Replicas count once. The tensors
    must not be partial.
    """
    parts: dict[Any, tuple[str, list[Tensor]]] = {}
    for number, x in zip(numbers, tensors, strict=True):
        if is_sharded(x):
            for dim, placement, size in _dimensions(x):
                if size > 1 and _sharded_axis(placement) is not None:
                    group = x.device_mesh.get_group(dim)
                    parts.setdefault(group, (x.device_mesh.device_type, []))[1].append(number)
    for group, (device, found) in parts.items():
        _all_reduce(found, group, device, largest)


def share(x: Tensor, amount: Tensor) -> Tensor:
    """Return what this rank adds to its part, so that ``amount`` is added to ``x``."""
    # The parts of a partial tensor will be added later.
    copies = _copies(x, "sum") if is_sharded(x) else 1
    return amount if copies == 1 else amount / copies


def _imported(module: str, name: str) -> Any:
    """Return a class, or () if its module is not imported, so that no instance exists."""
    return getattr(sys.modules.get(module), name, ())


def _all_reduce(sums: list[Tensor], group: Any, device: str, largest: bool = False) -> None:
    real = [torch.view_as_real(s) if s.is_complex() else s for s in sums]
    # The group's backend works on its own device, even if parameters are offloaded to the CPU.
    together = torch.cat([s.flatten().to(device) for s in real])
    op = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
    dist.all_reduce(together, op, group=group)
    for s, whole in zip(real, torch.split(together, [s.numel() for s in real]), strict=True):
        s.copy_(whole.view(s.shape))


def _process_groups(x: Tensor, fan_in: FanIn) -> Iterator[Any]:
    """Yield the group of each mesh dimension that a sum over the fan-in axes crosses."""
    if is_sharded(x):
        for dim, placement, size in _dimensions(x):
            if size > 1 and (placement.is_partial() or _sharded_axis(placement) in fan_in.axes):
                yield x.device_mesh.get_group(dim)


def _copies(x: DTensor, reduction: str) -> int:
    """Return how many ranks hold parts of one entry that this reduction combines."""
    return math.prod(
        size for _, placement, size in _dimensions(x) if _reduction(placement) == reduction
    )


def _splits(x: DTensor) -> list[tuple[int, int]]:
    """Return (number of ranks, this rank) of each split of axis 0, in the order of the splits.

    FSDP2 over tensor parallelism splits last along the first mesh dimension, and marks it by a
    _StridedShard whose split factor is the number of parts before.
    """
    first: list[tuple[int, int]] = []
    last: list[tuple[int, int]] = []
    found = 1
    for dim, placement, size in reversed([*_dimensions(x)]):
        if _sharded_axis(placement) == 0:
            split = size, x.device_mesh.get_local_rank(dim)
            factor = getattr(placement, "split_factor", 1)
            if factor == 1:
                first.insert(0, split)
            elif factor == found:
                last.append(split)
            else:
                raise _refusal(placement)
            found *= size
    return first + last


def _dimensions(x: DTensor) -> Iterator[tuple[int, Any, int]]:
    """Yield (mesh dimension, placement, number of ranks)."""
    for dim, placement in enumerate(x.placements):
        known = placement.is_replicate() or _sharded_axis(placement) is not None
        if not known and _reduction(placement) not in ("sum", "avg"):
            raise _refusal(placement)
        yield dim, placement, x.device_mesh.size(dim)


def _refusal(placement: Any) -> ZeromeanError:
    return ZeromeanError(
        f"a DTensor is placed by {placement!r}, which is not Shard, Replicate, or Partial with sum"
        " or avg",
        "Redistribute it first",
    )


def _sharded_axis(placement: Any) -> int | None:
    # _StridedShard, of FSDP with tensor parallelism, is no subclass of Shard.
    return getattr(placement, "dim", None)


def _reduction(placement: Any) -> str | None:
    return getattr(placement, "reduce_op", None)

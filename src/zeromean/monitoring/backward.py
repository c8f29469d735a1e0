"""What at="backward" takes from gradients before the optimizer can see them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeromean.class_lookup import is_a
from zeromean.fan_in import FanIn
from zeromean.monitoring.measurement import broadcast
from zeromean.projection import vector_means
from zeromean.sharded import local_part

_DDP = "torch.nn.parallel.distributed.DistributedDataParallel"


class _Share(NamedTuple):
    """What was taken from one gradient.

    Args:
        means: From each of its vectors, in all backward passes of this step together.
        rest: Norm of what is here of what was left.
    """

    means: Tensor
    rest: Tensor


class Taken:
    """Adds up the means that are taken from gradients in the backward passes of one step.

    Args:
        model: Under DistributedDataParallel each rank takes means of its own, which are averaged
            as the gradients are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._replicas: Any = model if is_a(type(model), _DDP) else None
        self._shares: dict[Tensor, _Share] = {}

    def watch(self, parameter: Tensor, fan_in: FanIn) -> None:
        """Is called before a gradient is centered."""
        gradient = parameter.grad
        assert gradient is not None
        (means,) = vector_means([gradient], [fan_in])
        rest = torch.linalg.vector_norm(local_part(gradient) - broadcast(means, gradient, fan_in))
        before = self._shares.get(parameter)
        self._shares[parameter] = _Share(means if before is None else before.means + means, rest)

    def collect(self) -> dict[Tensor, Tensor]:
        """What was taken from each gradient, as far as known, and forget it."""
        shares, self._shares = self._shares, {}
        if self._replicas is not None:
            return self._averaged(shares)
        return {parameter: _in_proportion(parameter, share) for parameter, share in shares.items()}

    def _averaged(self, shares: dict[Tensor, _Share]) -> dict[Tensor, Tensor]:
        # Ranks hook the same parameters, but backward may reach them in another order on each.
        parameters = [p for p in self._replicas.parameters() if p in shares]
        if not parameters:
            return {}
        together = torch.cat([shares[p].means.flatten() for p in parameters])
        dist.all_reduce(together, group=self._replicas.process_group)
        together /= dist.get_world_size(self._replicas.process_group)
        sizes = [shares[p].means.numel() for p in parameters]
        return {
            p: part.view(shares[p].means.shape)
            for p, part in zip(parameters, torch.split(together, sizes), strict=True)
        }


def _in_proportion(parameter: Tensor, share: _Share) -> Tensor:
    """The means, scaled as the gradient was since: unscaled by a gradient scaler, or clipped."""
    if parameter.grad is None:
        return share.means
    now = torch.linalg.vector_norm(local_part(parameter.grad).to(share.rest.dtype))
    return share.means * torch.where(share.rest > 0, now / share.rest, 1.0)

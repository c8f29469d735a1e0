"""The means that at="backward" subtracts from gradients during the backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeromean.class_lookup import is_a
from zeromean.fan_in import FanIn
from zeromean.measurement.statistics import broadcast
from zeromean.projection import vector_means
from zeromean.sharded import local_part

_DDP = "torch.nn.parallel.distributed.DistributedDataParallel"


class _Removed(NamedTuple):
    """The part that was removed from one gradient, and the norm of the rest."""

    means: Tensor  # sum over the backward passes of this step
    rest: Tensor  # norm of the remaining gradient; if sharded, of this rank's part


class RemovedMeans:
    """The sums of the means that the backward passes of one step subtract from gradients.

    Under DistributedDataParallel each rank subtracts its own means; they are averaged over the
    ranks, as gradients are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._replicas: Any = model if is_a(type(model), _DDP) else None
        self._removed: dict[Tensor, _Removed] = {}

    def add(self, parameter: Tensor, fan_in: FanIn) -> None:
        """Add the means of a gradient that is about to be centered."""
        gradient = parameter.grad
        assert gradient is not None
        (means,) = vector_means([gradient], [fan_in])
        rest = torch.linalg.vector_norm(local_part(gradient) - broadcast(means, gradient, fan_in))
        before = self._removed.get(parameter)
        self._removed[parameter] = _Removed(means if before is None else before.means + means, rest)

    def collect(self) -> dict[Tensor, Tensor]:
        """Return the means by parameter, and clear them for the next step."""
        removed, self._removed = self._removed, {}
        if self._replicas is not None:
            return self._averaged(removed)
        return {parameter: _rescaled(parameter, one) for parameter, one in removed.items()}

    def _averaged(self, removed: dict[Tensor, _Removed]) -> dict[Tensor, Tensor]:
        # The order of the model, because the order of the backward pass may differ between ranks.
        parameters = [p for p in self._replicas.parameters() if p in removed]
        if not parameters:
            return {}
        means = torch.cat([removed[p].means.flatten() for p in parameters])
        dist.all_reduce(means, group=self._replicas.process_group)
        means /= dist.get_world_size(self._replicas.process_group)
        sizes = [removed[p].means.numel() for p in parameters]
        return {
            p: part.view(removed[p].means.shape)
            for p, part in zip(parameters, torch.split(means, sizes), strict=True)
        }


def _rescaled(parameter: Tensor, removed: _Removed) -> Tensor:
    """Scale the means by the factor that a gradient scaler or clipping has applied since."""
    if parameter.grad is None:
        return removed.means
    now = torch.linalg.vector_norm(local_part(parameter.grad).to(removed.rest.dtype))
    return removed.means * torch.where(removed.rest > 0, now / removed.rest, 1.0)

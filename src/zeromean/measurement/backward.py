"""The means that at="backward" subtracts from gradients during the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The part that was removed from one gradient, the norm of the rest, and the gradient."""

    means: Tensor  # sum over the backward passes of this step
    rest: Tensor  # norm of the remaining gradient; if sharded, of this rank's part
    gradient: Tensor


class RemovedMeans:
    """The sums of the means that the backward passes of one step subtract from gradients.

    Under DistributedDataParallel each rank subtracts its own means; they are averaged over the
    ranks, as gradients are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._replicas: Any = model if is_a(type(model), _DDP) else None
        self._replaces_gradients = getattr(model, "gradient_as_bucket_view", False)
        self._removed: dict[Tensor, _Removed] = {}

    def add(self, parameter: Tensor, fan_in: FanIn) -> None:
        """Add the means of a gradient that is about to be centered."""
        gradient = parameter.grad
        assert gradient is not None
        (means,) = vector_means([gradient], [fan_in])
        rest = torch.linalg.vector_norm(local_part(gradient) - broadcast(means, gradient, fan_in))
        before = self._removed.get(parameter)
        # A new tensor means that zero_grad discarded the earlier passes, unless DDP replaced it.
        if before is not None and (before.gradient is gradient or self._replaces_gradients):
            means = before.means + means
        self._removed[parameter] = _Removed(means, rest, gradient)

    def collect(self, weight_means: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Return the means by parameter, and clear them for the next step.

        Args:
            weight_means: Means of the weights of each centered parameter, in an order that is the
                same on every rank. Removed means have their shapes.
        """
        removed, self._removed = self._removed, {}
        if self._replicas is not None:
            return self._averaged(removed, weight_means)
        return {parameter: _rescaled(parameter, one) for parameter, one in removed.items()}

    def _averaged(
        self, removed: dict[Tensor, _Removed], weight_means: Mapping[Tensor, Tensor]
    ) -> dict[Tensor, Tensor]:
        # All ranks reduce the same parameters, although each may have used only some of them.
        parts, seen = [], []
        for parameter, means in weight_means.items():
            one = removed.get(parameter)
            parts.append(torch.zeros_like(means) if one is None else one.means)
            seen.append(means.new_full((1,), one is not None))
        if not parts:
            return {}
        flat = torch.cat([*(part.flatten() for part in parts), *seen])
        dist.all_reduce(flat, group=self._replicas.process_group)
        *averages, seen_by = torch.split(flat, [part.numel() for part in parts] + [len(parts)])
        ranks = dist.get_world_size(self._replicas.process_group)
        return {
            parameter: (average / ranks).view(part.shape)
            for parameter, part, average, count in zip(
                weight_means, parts, averages, seen_by.tolist(), strict=True
            )
            if count
        }


def _rescaled(parameter: Tensor, removed: _Removed) -> Tensor:
    """Scale the means by the factor that a gradient scaler or clipping has applied since."""
    if parameter.grad is None:
        return removed.means
    now = torch.linalg.vector_norm(local_part(parameter.grad).to(removed.rest.dtype))
    return removed.means * torch.where(removed.rest > 0, now / removed.rest, 1.0)

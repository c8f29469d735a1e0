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
    """The part that was removed from one gradient, and the rest."""

    means: Tensor  # sum over the backward passes of this step
    rest: Tensor  # remaining gradient, or its norm if ranks need not average it
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
        rest = local_part(gradient) - broadcast(means, gradient, fan_in)
        if self._replicas is None:
            rest = torch.linalg.vector_norm(rest)
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
        return {
            parameter: _rescaled(parameter, one.means, one.rest)
            for parameter, one in removed.items()
        }

    def _averaged(
        self, removed: dict[Tensor, _Removed], weight_means: Mapping[Tensor, Tensor]
    ) -> dict[Tensor, Tensor]:
        # All ranks reduce the same parameters, although each may have used only some of them.
        parts, seen = [], []
        for parameter, means in weight_means.items():
            one = removed.get(parameter)
            parts.append(torch.zeros_like(means) if one is None else one.means)
            parts.append(parameter.new_zeros(parameter.shape) if one is None else one.rest)
            seen.append(means.new_full((1,), one is not None))
        if not parts:
            return {}
        flat = torch.cat([part.flatten() for part in [*parts, *seen]])
        dist.all_reduce(flat, group=self._replicas.process_group)
        *sums, seen_by = torch.split(flat, [part.numel() for part in parts] + [len(seen)])
        ranks = dist.get_world_size(self._replicas.process_group)
        averages = [(x / ranks).view(part.shape) for x, part in zip(sums, parts, strict=True)]
        return {
            parameter: _rescaled(parameter, means, rest)
            for parameter, means, rest, count in zip(
                weight_means, averages[::2], averages[1::2], seen_by.tolist(), strict=True
            )
            if count
        }


def _rescaled(parameter: Tensor, means: Tensor, rest: Tensor) -> Tensor:
    """Scale the means by the factor that a gradient scaler or clipping has applied since."""
    if parameter.grad is None:
        return means
    gradient = local_part(parameter.grad)
    now = torch.linalg.vector_norm(gradient.to(torch.promote_types(gradient.dtype, torch.float32)))
    before = torch.linalg.vector_norm(rest)
    return means * torch.where(before > 0, now / before, 1.0)

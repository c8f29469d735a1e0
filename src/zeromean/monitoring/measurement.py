"""The numbers of one step, taken before and after it.

Each rank sums over what it holds; one all-reduce of sums and one of maxima for each mesh dimension
that cuts a tensor make them numbers of the whole, and one transfer brings them all to the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.monitoring.sample import Layer
from zeromean.projection import shift_, vector_means
from zeromean.sharded import is_sharded, local_part, reduce_over_shards
from zeromean.targets import Target


class Measurement:
    """One step under way.

    Args:
        targets: What is centered, or would be.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._weights = [local_part(target.parameter).detach().clone() for target in targets]
        self._gradients: dict[int, _Numbers] = {}

    def see_gradients(self, scale: Tensor | None, removed: Mapping[Tensor, Tensor] | None) -> None:
        """Take the gradients' numbers.

        Args:
            scale: By what the gradients have been multiplied, against underflow.
            removed: The mean that was taken from each vector already, where that is known; None if
                nothing was taken.
        """
        for index, (_, parameter, fan_in) in enumerate(self._targets):
            gradient = _gradient(parameter)
            if gradient is not None:
                taken = None if removed is None else removed.get(parameter)
                known = removed is None or taken is not None
                if scale is not None:
                    gradient = gradient / scale
                    taken = None if taken is None else taken / scale
                self._gradients[index] = _gradient_numbers(gradient, fan_in, taken, known)

    def finish(self, names: Mapping[int, str], start: Mapping[Tensor, Tensor]) -> tuple[Layer, ...]:
        """Take the weights' numbers, and bring all of them to the host.

        Args:
            names: Of the parameters, by their ids.
            start: The vectors' means when the monitor began.
        """
        seen = [(self._targets[index], index) for index in self._gradients]
        sums: list[Tensor] = []
        maxima: list[Tensor] = []
        for target, index in seen:
            gradient = self._gradients[index]
            weight = _weight_numbers(target, self._weights[index], start[target.parameter])
            sums.append(torch.stack([*gradient.sums, *weight]))
            maxima.append(torch.stack(gradient.maxima))
        if not seen:
            return ()
        parameters = [target.parameter for target, _ in seen]
        reduce_over_shards(sums, parameters)
        reduce_over_shards(maxima, parameters, largest=True)
        together = [torch.cat(pair) for pair in zip(sums, maxima, strict=True)]
        dtype = max((numbers.dtype for numbers in together), key=lambda one: one.itemsize)
        device = together[0].device
        rows = torch.stack([numbers.to(device, dtype) for numbers in together]).tolist()
        return tuple(
            _layer(names[id(target.parameter)], target, row)
            for (target, _), row in zip(seen, rows, strict=True)
        )


class _Numbers:
    """Sums and maxima over what is here of a gradient."""

    def __init__(self, sums: list[Tensor], maxima: list[Tensor]) -> None:
        self.sums = sums
        self.maxima = maxima


def means_of(targets: Sequence[Target]) -> list[Tensor]:
    """The weight vectors' means of many parameters."""
    return vector_means(
        [target.parameter.detach() for target in targets], [target.fan_in for target in targets]
    )


def spread(means: Tensor, like: Tensor, fan_in: FanIn) -> Tensor:
    """What is here of a tensor whose entries are their weight vector's number in ``means``.

    Entries that belong to no vector, a padding row's, are 0.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    whole = torch.zeros_like(like, dtype=dtype)
    shift_([whole], [fan_in], [means])
    return local_part(whole)


def _gradient(parameter: Tensor) -> Tensor | None:
    """The gradient, laid out as the parameter is; zeros where other ranks may wait for it."""
    gradient = parameter.grad
    if not is_sharded(parameter):
        return gradient
    if gradient is None:
        return torch.zeros_like(parameter)
    assert is_sharded(gradient)
    if gradient.placements != parameter.placements:  # it may be partial yet
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient


def _gradient_numbers(
    gradient: Tensor, fan_in: FanIn, taken: Tensor | None, known: bool
) -> _Numbers:
    (means,) = vector_means([gradient], [fan_in])
    here, mean = _real(local_part(gradient)), _real(spread(means, gradient, fan_in))
    rest = here - mean
    if taken is not None:
        mean = mean + _real(spread(taken, gradient, fan_in))
        here = rest + mean
    unknown = 1.0 if known else math.nan
    return _Numbers(
        [
            here.sum() * unknown,
            here.square().sum() * unknown,
            rest.sum(),
            rest.square().sum(),
            mean.square().sum() * unknown,
        ],
        [_largest(here) * unknown, _largest(rest)],
    )


def _weight_numbers(target: Target, before: Tensor, start: Tensor) -> list[Tensor]:
    _, parameter, fan_in = target
    weight = parameter.detach()
    (means,) = vector_means([weight], [fan_in])
    old, new = _real(before), _real(local_part(weight))
    return [
        _real(spread(means, weight, fan_in)).square().sum(),
        _real(spread(means - start, weight, fan_in)).square().sum(),
        (new - old).square().sum(),
        old.square().sum(),
    ]


def _real(x: Tensor) -> Tensor:
    """In at least float32; a complex number as two."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.view_as_real(x) if x.is_complex() else x


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax() if x.numel() else x.new_zeros(())


def _layer(name: str, target: Target, row: Sequence[float]) -> Layer:
    (g, g2, rest, rest2, taken2, mean2, drift2, step2, weight2, largest, largest_rest) = row
    _, parameter, fan_in = target
    entries = parameter.numel() * (2 if parameter.is_complex() else 1)
    in_vectors = entries
    if fan_in.padding_idx is not None:
        in_vectors -= entries // parameter.shape[0]
    return Layer(
        name=name,
        gradient_norm=math.sqrt(g2),
        gradient_norm_centered=math.sqrt(rest2),
        gradient_max=largest,
        gradient_max_centered=largest_rest,
        gradient_mean=g / entries,
        gradient_mean_centered=rest / entries,
        removed=_share(taken2, g2),
        weight_mean=math.sqrt(mean2 / in_vectors),
        weight_mean_drift=math.sqrt(drift2 / in_vectors),
        update_ratio=math.sqrt(_share(step2, weight2)),
    )


def _share(part: float, whole: float) -> float:
    if whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole

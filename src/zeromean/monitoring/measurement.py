"""The numbers of one step, taken before and after it.

Each rank sums over what it holds; one all-reduce of sums and one of maxima for each mesh dimension
that cuts a tensor make them numbers of the whole, and one transfer brings them all to the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zeromean.centralization.centering import CenteredParameter
from zeromean.fan_in import FanIn
from zeromean.monitoring.sample import Layer
from zeromean.projection import shift_, vector_means
from zeromean.sharded import is_sharded, local_part, reduce_over_shards


class Measurement:
    """One step under way.

    Args:
        targets: What is centered, or would be.
    """

    def __init__(self, targets: Sequence[CenteredParameter]) -> None:
        self._targets = targets
        self._before = [local_part(target.parameter).detach().clone() for target in targets]
        self._gradients: _Gradients | None = None

    def see_gradients(self, scale: Tensor | None, removed: Mapping[Tensor, Tensor] | None) -> None:
        """Take the gradients' numbers.

        Args:
            scale: By what the gradients have been multiplied, against underflow.
            removed: The mean that was taken from each vector already, where that is known; None if
                nothing was taken.
        """
        found = [_gradient(target.parameter) for target in self._targets]
        present = [n for n, gradient in enumerate(found) if gradient is not None]
        gradients = [gradient for gradient in found if gradient is not None]
        if scale is not None:
            gradients = [gradient / scale for gradient in gradients]
        fan_ins = [self._targets[n].fan_in for n in present]
        here, rest, energies = [], [], []
        unknown = []
        for n, gradient, means in zip(
            present, gradients, vector_means(gradients, fan_ins), strict=True
        ):
            mean = broadcast(means, gradient, self._targets[n].fan_in)
            whole, centered = local_part(gradient), local_part(gradient) - mean
            taken = None if removed is None else removed.get(self._targets[n].parameter)
            unknown.append(removed is not None and taken is None)
            if taken is not None:
                taken = taken if scale is None else taken / scale
                mean = mean + broadcast(taken, gradient, self._targets[n].fan_in)
                whole = centered + mean
            here.append(_real(whole))
            rest.append(_real(centered))
            energies.append(_energy(mean, whole))
        self._gradients = _Gradients(
            present,
            unknown,
            [x.sum() for x in here],
            _squares(here),
            [x.sum() for x in rest],
            _squares(rest),
            energies,
            _largest(here),
            _largest(rest),
        )

    def finish(self, names: Mapping[int, str], start: Mapping[Tensor, Tensor]) -> tuple[Layer, ...]:
        """Take the weights' numbers, and bring all of them to the host.

        Args:
            names: Of the parameters, by their ids.
            start: The vectors' means when the monitor began.
        """
        gradients = self._gradients
        if gradients is None or not gradients.present:
            return ()
        targets = [self._targets[n] for n in gradients.present]
        weights = [target.parameter.detach() for target in targets]
        means = vector_means(weights, [target.fan_in for target in targets])
        energies, drifts = [], []
        for target, weight, mean in zip(targets, weights, means, strict=True):
            here = local_part(weight)
            drift = mean - start[target.parameter]
            energies.append(_energy(broadcast(mean, weight, target.fan_in), here))
            drifts.append(_energy(broadcast(drift, weight, target.fan_in), here))
        new = [_real(local_part(weight)) for weight in weights]
        old = [_real(self._before[n]) for n in gradients.present]
        steps = [after - before for after, before in zip(new, old, strict=True)]
        sums = _matrix([*gradients.sums, energies, drifts, _squares(steps), _squares(old)])
        maxima = _matrix([gradients.largest, gradients.largest_rest])
        reduce_over_shards(list(sums), weights)
        reduce_over_shards(list(maxima), weights, largest=True)
        return tuple(
            _layer(names[id(target.parameter)], target, row, unknown)
            for target, row, unknown in zip(
                targets, torch.cat([sums, maxima], 1).tolist(), gradients.unknown, strict=True
            )
        )


class _Gradients(NamedTuple):
    """What was taken of the gradients, a number a tensor: sums and maxima over what is here.

    Args:
        present: Which of the targets have one.
        unknown: Of each, whether it is not known what it was before it was centered.
    """

    present: list[int]
    unknown: list[bool]
    sum: list[Tensor]
    squares: list[Tensor]
    sum_rest: list[Tensor]
    squares_rest: list[Tensor]
    energies: list[Tensor]
    largest: list[Tensor]
    largest_rest: list[Tensor]

    @property
    def sums(self) -> list[list[Tensor]]:
        """All but the maxima."""
        return [self.sum, self.squares, self.sum_rest, self.squares_rest, self.energies]


def means_of(targets: Sequence[CenteredParameter]) -> list[Tensor]:
    """The weight vectors' means of many parameters."""
    return vector_means(
        [target.parameter.detach() for target in targets], [target.fan_in for target in targets]
    )


def broadcast(means: Tensor, like: Tensor, fan_in: FanIn) -> Tensor:
    """What broadcasts to the part of ``like`` that is here: every entry's vector's number.

    Entries that belong to no vector, a padding row's, get 0.
    """
    if fan_in.groups == 1 and fan_in.padding_idx is None:
        return means
    whole = torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
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


def _real(x: Tensor) -> Tensor:
    """In at least float32; a complex number as two."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.view_as_real(x) if x.is_complex() else x


def _energy(mean: Tensor, here: Tensor) -> Tensor:
    """The sum of squares of a number a vector over all entries that are here."""
    share = here.numel() / mean.numel() if mean.numel() else 0.0
    return _real(mean).square().sum() * share


def _squares(tensors: list[Tensor]) -> list[Tensor]:
    """The sum of squares of each."""
    # Norms add up in another order, and were off by 1e-4 on the CPU.
    return [x.square().sum() for x in tensors]


def _largest(tensors: list[Tensor]) -> list[Tensor]:
    """The largest entry of each, by its absolute value; an empty one's is 0."""
    return [x.abs().amax() if x.numel() else x.new_zeros(()) for x in tensors]


def _matrix(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """Numbers of possibly several types and devices: a row a tensor, a column a quantity."""
    every = [number for column in columns for number in column]
    dtype = max((number.dtype for number in every), key=lambda one: one.itemsize)
    together = torch.stack([number.to(every[0].device, dtype) for number in every])
    rows: Tensor = together.view(len(columns), -1).T
    return rows.contiguous()


def _layer(name: str, target: CenteredParameter, row: Sequence[float], unknown: bool) -> Layer:
    (g, g2, rest, rest2, taken2, mean2, drift2, step2, weight2, largest, largest_rest) = row
    if unknown:
        g = g2 = taken2 = largest = math.nan
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

"""Statistics of gradients and weights per layer, before and after centering.

Each rank sums over its own part of a tensor. One all-reduce of sums and one of maxima per mesh
dimension make the numbers those of the whole tensor, and one transfer brings all of them to the
host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zeromean.centralization.centering import CenteredParameter
from zeromean.fan_in import FanIn
from zeromean.measurement.sample import LayerStatistics, share
from zeromean.projection import shift_, vector_means
from zeromean.sharded import is_sharded, local_part, reduce_over_shards


class GradientStatistics(NamedTuple):
    """Numbers of several gradients g, taken over the parts on this rank.

    The sums are those of g, g², Pg and (Pg)², the energy of what P removes, the number of nonzero
    entries of g, and how many of them are zero in Pg.
    """

    sums: Tensor  # shape (gradients, 7)
    maxima: Tensor  # largest absolute entries of g and of Pg, shape (gradients, 2)
    unknown: list[bool]  # whether the gradient before centering is unknown


def gradient_statistics(
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    removed: Sequence[Tensor | None] | None = None,
) -> GradientStatistics:
    """Measure gradients before and after centering.

    If something was subtracted from the gradients already, ``removed`` holds the means subtracted
    from each one, or None for each whose means are unknown.
    """
    known = [None] * len(gradients) if removed is None else removed
    rows, maxima = [], []
    for gradient, fan_in, means, before in zip(
        gradients, fan_ins, vector_means(gradients, fan_ins), known, strict=True
    ):
        mean = broadcast(means, gradient, fan_in)
        whole = local_part(gradient)
        rest = whole - mean
        if before is not None:
            mean = mean + broadcast(before, gradient, fan_in)
            whole = rest + mean
        vanished = (whole != 0) & (rest.to(gradient.dtype) == 0)
        whole, rest = _wide(whole), _wide(rest)
        g, pg = _real(whole), _real(rest)
        rows.append(
            [
                *(g.sum(), g.square().sum(), pg.sum(), pg.square().sum(), _energy(mean, whole)),
                *((whole != 0).sum().to(g.dtype), vanished.sum().to(g.dtype)),
            ]
        )
        maxima.append([_largest(whole), _largest(rest)])
    unknown = [removed is not None and one is None for one in known]
    return GradientStatistics(_matrix(rows), _matrix(maxima), unknown)


class StepMeasurement:
    """The measurement of one optimizer step: of its gradients, then of its weights."""

    def __init__(self, parameters: Sequence[CenteredParameter]) -> None:
        self._parameters = parameters
        self._before = [local_part(one.parameter).detach().clone() for one in parameters]
        self._present: list[int] = []
        self._gradients: GradientStatistics | None = None
        self._scale: Tensor | None = None

    def measure_gradients(
        self, scale: Tensor | None, removed: Mapping[Tensor, Tensor] | None
    ) -> None:
        """Measure the gradients that the parameters have now.

        Args:
            scale: Loss scale by which the gradients are multiplied, or None.
            removed: Means that were subtracted from the gradients already, as far as they are
                known; None if nothing was subtracted.
        """
        found = [_gradient(one.parameter) for one in self._parameters]
        self._present = [n for n, gradient in enumerate(found) if gradient is not None]
        if not self._present:
            return
        gradients = [gradient for gradient in found if gradient is not None]
        known = None
        if removed is not None:
            known = [removed.get(self._parameters[n].parameter) for n in self._present]
        fan_ins = [self._parameters[n].fan_in for n in self._present]
        self._gradients = gradient_statistics(gradients, fan_ins, known)
        self._scale = scale

    def finish(
        self, names: Mapping[int, str], start: Mapping[Tensor, Tensor]
    ) -> tuple[LayerStatistics, ...]:
        """Measure the weights after the step, and bring all numbers to the host.

        ``names`` are by the ids of the parameters; ``start`` has their means at the start of the
        run.
        """
        gradients = self._gradients
        if gradients is None:
            return ()
        measured = [self._parameters[n] for n in self._present]
        weights = [one.parameter.detach() for one in measured]
        rows = []
        for n, one, weight, mean in zip(
            self._present, measured, weights, means_of(measured), strict=True
        ):
            new, old = _real(local_part(weight)), _real(self._before[n])
            energies = [
                _energy(broadcast(value, weight, one.fan_in), local_part(weight))
                for value in (mean, mean - start[one.parameter])
            ]
            rows.append([*energies, (new - old).square().sum(), old.square().sum()])
        sums = torch.cat([gradients.sums, _matrix(rows).to(gradients.sums)], 1)
        maxima = gradients.maxima.clone()
        reduce_over_shards(list(sums), weights)
        reduce_over_shards(list(maxima), weights, largest=True)
        # Divided last: unscaled gradients could underflow in half precision.
        scale = 1.0 if self._scale is None else self._scale.item()
        return tuple(
            _layer(names[id(one.parameter)], one, row, scale, unknown)
            for one, row, unknown in zip(
                measured, torch.cat([sums, maxima], 1).tolist(), gradients.unknown, strict=True
            )
        )


def means_of(parameters: Sequence[CenteredParameter]) -> list[Tensor]:
    """Return the means of the weight vectors of each parameter."""
    return vector_means(
        [one.parameter.detach() for one in parameters], [one.fan_in for one in parameters]
    )


def vanishing_share(gradient: Tensor, fan_in: FanIn) -> float:
    """Return the share of a gradient's nonzero entries that centering turns into exact zeros."""
    sums = gradient_statistics([gradient], [fan_in]).sums[0].tolist()
    return share(sums[6], sums[5])


def broadcast(means: Tensor, like: Tensor, fan_in: FanIn) -> Tensor:
    """Return the means in a shape that broadcasts to this rank's part of ``like``.

    Entries that belong to no weight vector, such as a padding row, get 0.
    """
    if fan_in.groups == 1 and fan_in.padding_idx is None:
        return means
    whole = torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
    shift_([whole], [fan_in], [means])
    return local_part(whole)


def _gradient(parameter: Tensor) -> Tensor | None:
    """Return the gradient in the parameter's placements; zeros if other ranks may wait for it."""
    gradient = parameter.grad
    if not is_sharded(parameter):
        return gradient
    if gradient is None:
        return torch.zeros_like(parameter)
    assert is_sharded(gradient)
    if gradient.placements != parameter.placements:  # it may still be partial
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient


def _wide(x: Tensor) -> Tensor:
    """Convert to float64 or complex128, whose squares cannot underflow."""
    least = torch.float32 if x.device.type == "mps" else torch.float64  # mps has no float64
    return x.to(torch.promote_types(x.dtype, least))


def _real(x: Tensor) -> Tensor:
    """Convert to float64, and a complex number to two real ones."""
    x = _wide(x)
    return torch.view_as_real(x) if x.is_complex() else x


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax() if x.numel() else x.new_zeros(())


def _energy(mean: Tensor, here: Tensor) -> Tensor:
    """Return the sum over all entries on this rank of the square of their vector's number."""
    repeats = here.numel() / mean.numel() if mean.numel() else 0.0
    return _real(mean).square().sum() * repeats


def _matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Stack numbers of possibly several types and devices."""
    numbers = [number for row in rows for number in row]
    dtype = max((number.dtype for number in numbers), key=lambda one: one.itemsize)
    stacked = torch.stack([number.to(numbers[0].device, dtype) for number in numbers])
    return stacked.view(len(rows), -1)


def _layer(
    name: str, one: CenteredParameter, row: Sequence[float], scale: float, unknown: bool
) -> LayerStatistics:
    g, g2, pg, pg2, removed2, nonzero, vanished = row[:7]
    mean2, drift2, step2, weight2, largest, largest_rest = row[7:]
    if unknown:
        g = g2 = removed2 = nonzero = largest = math.nan
    in_vectors = one.parameter.numel()
    parts = in_vectors * (2 if one.parameter.is_complex() else 1)
    if one.fan_in.padding_idx is not None:
        in_vectors -= in_vectors // one.parameter.shape[0]
    return LayerStatistics(
        name=name,
        gradient_norm=math.sqrt(g2) / scale,
        gradient_norm_centered=math.sqrt(pg2) / scale,
        gradient_max=largest / scale,
        gradient_max_centered=largest_rest / scale,
        gradient_mean=g / parts / scale,
        gradient_mean_centered=pg / parts / scale,
        removed=min(share(removed2, g2), 1.0),  # above 1 only by rounding
        vanished=share(vanished, nonzero),
        weight_mean=math.sqrt(mean2 / in_vectors),
        weight_mean_drift=math.sqrt(drift2 / in_vectors),
        update_ratio=math.sqrt(share(step2, weight2)),
    )

"""The mean of each weight vector, which a zero-mean update cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zeromean.diagnose.layers import layers_of
from zeromean.diagnose.result import GRAY, Diagnostic, number
from zeromean.plan import Layers
from zeromean.projection import vector_means
from zeromean.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class WeightMeans(Diagnostic):
    """The means of a model's weight vectors.

    Args:
        layers: Name of each weight tensor, in the model's order.
        means: Mean of each weight vector, per layer, shape (vectors,).
        deviations: Standard deviation of each layer's entries, shape (layers,).
        fan_in: Number M of entries of one weight vector, shape (layers,).
    """

    layers: tuple[str, ...]
    means: tuple[Array, ...]
    deviations: Array
    fan_in: npt.NDArray[np.int64]

    title: ClassVar[str] = "Means of the weight vectors"
    caption: ClassVar[str] = (
        "One point per weight vector, layers from left to right in alternating colors."
    )
    source: ClassVar[str] = "Yong et al. 2020, Fig. 3"

    @property
    def answer(self) -> str:
        scales = self.deviations / np.sqrt(self.fan_in)
        sizes = np.concatenate([np.abs(means) for means in self.means])
        relative = np.concatenate(
            [
                np.abs(means) / max(scale, np.finfo(float).tiny)
                for means, scale in zip(self.means, scales, strict=True)
            ]
        )
        return (
            f"The median absolute mean of the {len(sizes):,} weight vectors is"
            f" {number(float(np.median(sizes)))}, {number(float(np.median(relative)))} times the"
            " value expected by chance for independent entries (their deviation /"
            " \N{SQUARE ROOT}M; 0.67 is usual at initialization)."
        )

    def table(self) -> Table:
        rows = [
            (
                name,
                str(len(means)),
                str(m),
                number(float(np.median(np.abs(means)))),
                number(float(np.abs(means).max())),
                number(float(deviation)),
            )
            for name, means, m, deviation in zip(
                self.layers, self.means, self.fan_in, self.deviations, strict=True
            )
        ]
        return Table(
            ("layer", "vectors", "M", "median |mean|", "largest |mean|", "deviation"), rows
        )

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        start = 0
        for index, means in enumerate(self.means):
            sizes = np.where(means == 0, np.nan, np.abs(means))  # zero has no logarithm
            one.plot(
                np.arange(start, start + len(means)), sizes, ".", markersize=3,
                color=GRAY if index % 2 else color, label=None if index else label,
            )  # fmt: skip
            start += len(means)
        one.set_yscale("log")
        one.set_xlabel("weight vector")
        one.set_ylabel("|mean|")


@torch.no_grad()
def weight_means(
    model: nn.Module, *, layers: Layers = "all", embeddings: bool = False
) -> WeightMeans:
    r"""Compute the mean of each weight vector, :math:`\frac{1}{M} \sum_{i=1}^{M} w_i`.

    If the whole update is projected, the means stay as they were at initialization
    (:math:`e^T w_t = e^T w_0`). For a parametrized weight, they are those of the effective weight,
    which the layer computes with; for a natural re-parametrization ("nnn"), those of its v.

    Args:
        model: Model to diagnose.
        layers, embeddings: Selection of layers, as in :func:`zeromean.centralize`.

    Returns:
        A :class:`WeightMeans`.

    Raises:
        ZeromeanError: The model has no layer with fan-in axes, has weights that are complex, not
            finite or on the meta device, or is sharded over processes; or an option has an unknown
            value.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0, 6.0], [1.0, 0.0, -1.0]]))
        >>> zeromean.diagnose.weight_means(model).means
        (array([3., 0.]),)

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, eq. 3 and Fig. 3.
    """
    found = layers_of(model, layers, embeddings)
    weights: list[Tensor] = [layer.weight for layer in found]
    fan_ins = [layer.fan_in for layer in found]
    return WeightMeans(
        layers=tuple(layer.name for layer in found),
        means=tuple(
            means.flatten().cpu().double().numpy() for means in vector_means(weights, fan_ins)
        ),
        deviations=np.array([float(w.cpu().double().std(correction=0)) for w in weights]),
        fan_in=np.array([f.size(w.shape) for f, w in zip(fan_ins, weights, strict=True)]),
    )

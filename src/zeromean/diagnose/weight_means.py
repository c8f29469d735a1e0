"""The mean of each weight vector: what a zero-mean gradient cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zeromean.diagnose.layers import layers_of
from zeromean.diagnose.result import GRAY, Diagnostic, number
from zeromean.plan import Layers
from zeromean.projection import vector_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WeightMeans(Diagnostic):
    """The means of a model's weight vectors.

    Args:
        layers: Name of each weight tensor, in the model's order.
        means: For each layer the mean of each of its weight vectors, shape (vectors,).
        deviations: The standard deviation of each layer's entries, shape (layers,).
        fan_in: M, the entries of one weight vector, of each layer, shape (layers,).
    """

    layers: tuple[str, ...]
    means: tuple[Array, ...]
    deviations: Array
    fan_in: npt.NDArray[np.int64]

    title: ClassVar[str] = "Means of the weight vectors"
    caption: ClassVar[str] = (
        "One point a weight vector, layers from left to right in turns of two colors."
    )
    source: ClassVar[str] = "Yong et al. 2020, Fig. 3"

    @property
    def answer(self) -> str:
        sizes = np.concatenate([np.abs(means) for means in self.means])
        in_chance = np.concatenate(
            [
                np.abs(means) * np.sqrt(m) / max(deviation, np.finfo(float).tiny)
                for means, m, deviation in zip(
                    self.means, self.fan_in, self.deviations, strict=True
                )
            ]
        )
        return (
            f"Half of the {len(sizes):,} weight vectors have a mean below"
            f" {number(float(np.median(sizes)))}; the median mean is"
            f" {number(float(np.median(in_chance)))} times what independent entries would show by"
            " chance (their deviation / \N{SQUARE ROOT}M; 0.67 is usual at initialization)."
        )

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("layer", "vectors", "M", "median |mean|", "largest |mean|", "deviation")
        ]
        for name, means, m, deviation in zip(
            self.layers, self.means, self.fan_in, self.deviations, strict=True
        ):
            sizes = np.abs(means)
            rows.append(
                (
                    name,
                    str(len(means)),
                    str(m),
                    number(float(np.median(sizes))),
                    number(float(sizes.max())),
                    number(float(deviation)),
                )
            )
        return rows

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        start = 0
        for turn, means in enumerate(self.means):
            index = np.arange(start, start + len(means))
            start += len(means)
            sizes = np.where(means == 0, np.nan, np.abs(means))  # zero has no logarithm
            one.plot(
                index,
                sizes,
                ".",
                markersize=3,
                color=GRAY if turn % 2 else color,
                label=label if turn == 0 else None,
            )
        one.set_yscale("log")
        one.set_xlabel("weight vector")
        one.set_ylabel("|mean|")


@torch.no_grad()
def weight_means(
    model: nn.Module, *, layers: Layers = "all", embeddings: bool = False
) -> WeightMeans:
    r"""The mean of each weight vector, :math:`\frac{1}{M} \sum_{i=1}^{M} w_i`.

    Where the whole update is projected, these are what they were at initialization
    (:math:`e^T w_t = e^T w_0`). A parametrized weight counts as the layer uses it.

    Args:
        model: The model.
        layers, embeddings: Which layers, as in :func:`zeromean.centralize`.

    Returns:
        A :class:`WeightMeans`.

    Raises:
        ZeromeanError: The model has no layer with fan-in axes, or an option an unknown value.

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
    weights: list[Any] = [layer.weight for layer in found]
    means = vector_means(weights, [layer.fan_in for layer in found])
    return WeightMeans(
        layers=tuple(layer.name for layer in found),
        means=tuple(mean.flatten().double().cpu().numpy() for mean in means),
        deviations=np.array([float(w.double().std(correction=0)) for w in weights]),
        fan_in=np.array(
            [layer.fan_in.size(w.shape) for layer, w in zip(found, weights, strict=True)]
        ),
    )

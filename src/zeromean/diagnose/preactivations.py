"""Mean and variance of each layer's pre-activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zeromean.diagnose.batches import Batches, pairs, run
from zeromean.diagnose.layers import Layer, forward_hooks, layers_of, unchanged
from zeromean.diagnose.result import Diagnostic, layer_axis, number
from zeromean.errors import ZeromeanError
from zeromean.measurement.sample import share
from zeromean.plan import Layers
from zeromean.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Preactivations(Diagnostic):
    """Moments of the pre-activations over samples (and pixels or positions).

    Args:
        layers: Name of each weight tensor, in the model's order.
        mean: Average of the units' means, per layer, shape (layers,).
        variance: Average of the units' variances, per layer, shape (layers,).
        unit_means: Mean of each unit, per layer, shape (units,).
        unit_variances: Biased variance of each unit, per layer, shape (units,).
    """

    layers: tuple[str, ...]
    mean: Array
    variance: Array
    unit_means: tuple[Array, ...]
    unit_variances: tuple[Array, ...]

    title: ClassVar[str] = "Pre-activations"
    caption: ClassVar[str] = (
        "Mean and variance by layer, averaged over its units; the bars span 8 of 10 units."
    )
    source: ClassVar[str] = "Huang et al. 2017, Fig. 2 a and b, Proposition 1"
    panels: ClassVar[int] = 2

    @property
    def answer(self) -> str:
        low, high = int(self.variance.argmin()), int(self.variance.argmax())
        shift = [
            share(float(np.median(np.abs(means))), float(np.median(variances)) ** 0.5)
            for means, variances in zip(self.unit_means, self.unit_variances, strict=True)
        ]
        most = int(np.argmax(shift))
        return (
            f"Variances range from {number(self.variance[low])} ({self.layers[low]}) to"
            f" {number(self.variance[high])} ({self.layers[high]}); the median unit's mean is at"
            f" most {number(shift[most])} of its deviation from zero ({self.layers[most]})."
        )

    def table(self) -> Table:
        rows = [
            (
                *(name, str(len(variances)), number(mean), number(variance)),
                *(number(float(variances.min())), number(float(variances.max()))),
            )
            for name, mean, variance, variances in zip(
                self.layers, self.mean, self.variance, self.unit_variances, strict=True
            )
        ]
        header = ("layer", "units", "mean", "variance", "least variance", "largest variance")
        return Table(header, rows)

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        places = np.arange(len(self.layers))
        for one, averages, units, quantity in (
            (axes[0], self.mean, self.unit_means, "mean"),
            (axes[1], self.variance, self.unit_variances, "variance"),
        ):
            low, high = np.array([np.quantile(values, (0.1, 0.9)) for values in units]).T
            one.vlines(places, low, high, color=color, alpha=0.4, linewidth=4)
            one.plot(places, averages, "o-", color=color, markersize=4, label=label)
            one.set_ylabel(quantity)
            layer_axis(one, [name.removesuffix(".weight") for name in self.layers])
        axes[0].axhline(0, color="#999999", linewidth=0.8, linestyle="--")
        if (self.variance > 0).all():
            axes[1].set_yscale("log")


@torch.no_grad()
def preactivations(model: nn.Module, batches: Batches, *, layers: Layers = "all") -> Preactivations:
    r"""Compute mean and variance of the output of each linear or convolutional layer.

    For one unit :math:`z = w^T h + b` (without b if the layer has none) both are taken over
    samples, and over pixels or positions. With zero-mean unit-norm w and inputs
    :math:`h \sim N(\mu 1, \sigma^2 I)`, z has mean 0 and variance :math:`\sigma^2`. Recurrent
    layers and the projections of attention are left out, because their output is another function
    of their weights. The model runs in its current mode and stays unchanged.

    Args:
        model: Model to diagnose.
        batches: One (input, target) pair, or an iterable of pairs; targets are not used.
        layers: Selection of layers, as in :func:`zeromean.centralize`.

    Returns:
        A :class:`Preactivations`.

    Raises:
        ZeromeanError: No such layer ran, the batches are invalid, or a weight or an output is not
            finite.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[0.6, 0.8]]))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> found = zeromean.diagnose.preactivations(model, (x, None))
        >>> round(float(found.mean[0]), 4), round(float(found.variance[0]), 4)
        (0.7, 0.01)

    Reference:
        Huang et al., Centered Weight Normalization, ICCV 2017, Proposition 1 and Fig. 2.
    """
    found = layers_of(model, layers)
    moments: dict[str, _Moments] = {}

    def on_call(layer: Layer, _inputs: object, output: object) -> None:
        units = layer.units(output)
        if units is not None and len(units):  # an expert may receive no token
            moments.setdefault(layer.name, _Moments()).add(units)

    with unchanged(model), forward_hooks(found, on_call):
        for inputs, _ in pairs(batches, model):
            run(model, inputs)
    names = [layer.name for layer in found if layer.name in moments]
    if not names:
        raise ZeromeanError(
            "no linear or convolutional layer of the model ran",
            "Print zeromean.explain(model), and check layers=",
        )
    means = tuple(moments[name].mean.cpu().numpy() for name in names)
    variances = tuple(moments[name].variance().cpu().numpy() for name in names)
    for name, values in zip(names, means, strict=True):
        if not np.isfinite(values).all():
            raise ZeromeanError(
                f"the output of {name} is not finite on these batches", "Check the inputs"
            )
    return Preactivations(
        layers=tuple(names),
        mean=np.array([mean.mean() for mean in means]),
        variance=np.array([variance.mean() for variance in variances]),
        unit_means=means,
        unit_variances=variances,
    )


class _Moments:
    """Count, mean and sum of squared differences of each column, batch by batch, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        values = values.double()
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        if self.count == 0:
            self.count, self.mean, self.squares = len(values), mean, squares
            return
        total = self.count + len(values)
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * len(values) / total)
        self.mean = self.mean + step * (len(values) / total)
        self.count = total

    def variance(self) -> Tensor:
        return self.squares / self.count

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
from zeromean.diagnose.layers import Layer, layers_of, listening, unchanged
from zeromean.diagnose.result import Diagnostic, layer_axis, number
from zeromean.errors import ZeromeanError
from zeromean.plan import Layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Preactivations(Diagnostic):
    """Moments of the pre-activations over samples (and pixels or positions).

    Args:
        layers: Name of each weight tensor, in the model's order.
        mean: Of each layer, the average of its units' means, shape (layers,).
        variance: Of each layer, the average of its units' variances, shape (layers,).
        unit_means: For each layer the mean of each unit, shape (units,).
        unit_variances: For each layer the biased variance of each unit, shape (units,).
    """

    layers: tuple[str, ...]
    mean: Array
    variance: Array
    unit_means: tuple[Array, ...]
    unit_variances: tuple[Array, ...]

    title: ClassVar[str] = "Pre-activations"
    caption: ClassVar[str] = (
        "Mean and variance by layer, averaged over its units; the whiskers hold 8 units of 10."
    )
    source: ClassVar[str] = "Huang et al. 2017, Fig. 2 a and b, Proposition 1"
    panels: ClassVar[int] = 2

    @property
    def answer(self) -> str:
        low, high = int(self.variance.argmin()), int(self.variance.argmax())
        shift = np.array(
            [
                _ratio(float(np.median(np.abs(means))), float(np.median(variances)) ** 0.5)
                for means, variances in zip(self.unit_means, self.unit_variances, strict=True)
            ]
        )
        most = int(shift.argmax())
        return (
            f"Variances run from {number(self.variance[low])} ({self.layers[low]}) to"
            f" {number(self.variance[high])} ({self.layers[high]}); the mean of a middling unit is"
            f" at most {number(shift[most])} of its deviation from zero ({self.layers[most]})."
        )

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("layer", "units", "mean", "variance", "least variance", "most variance")
        ]
        for index, name in enumerate(self.layers):
            variances = self.unit_variances[index]
            rows.append(
                (
                    name,
                    str(len(variances)),
                    number(self.mean[index]),
                    number(self.variance[index]),
                    number(float(variances.min())),
                    number(float(variances.max())),
                )
            )
        return rows

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        places = np.arange(len(self.layers))
        for one, middle, units, what in (
            (axes[0], self.mean, self.unit_means, "mean"),
            (axes[1], self.variance, self.unit_variances, "variance"),
        ):
            low, high = np.array([np.quantile(values, (0.1, 0.9)) for values in units]).T
            one.vlines(places, low, high, color=color, alpha=0.4, linewidth=4)
            one.plot(places, middle, "o-", color=color, markersize=4, label=label)
            one.set_ylabel(what)
            layer_axis(one, [name.removesuffix(".weight") for name in self.layers])
        axes[0].axhline(0, color="#999999", linewidth=0.8, linestyle="--")
        if (self.variance > 0).all():
            axes[1].set_yscale("log")


@torch.no_grad()
def preactivations(model: nn.Module, batches: Batches, *, layers: Layers = "all") -> Preactivations:
    r"""Mean and variance of what each linear or convolutional layer puts out.

    For one unit :math:`z = w^T h + b` (without b where the layer has none) both are taken over
    samples, and over pixels or positions. With zero-mean unit-norm w and inputs
    :math:`h \sim N(\mu 1, \sigma^2 I)`, z has mean 0 and variance :math:`\sigma^2`. Layers whose
    output is more than that (recurrent ones, attention's projections) are left out. The model runs
    in the mode that it is in and is left as it was.

    Args:
        model: The model.
        batches: One (input, target) pair, or an iterable of them; targets are not used.
        layers: Which layers, as in :func:`zeromean.centralize`.

    Returns:
        A :class:`Preactivations`.

    Raises:
        ZeromeanError: No such layer ran, or the batches are not what they should be.

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

    def heard(layer: Layer, _inputs: object, output: object) -> None:
        units = layer.units(output)
        if units is not None:
            moments.setdefault(layer.name, _Moments()).add(units)

    with unchanged(model), listening(found, heard):
        for inputs, _ in pairs(batches, model):
            run(model, inputs)
    names = [layer.name for layer in found if layer.name in moments]
    if not names:
        raise ZeromeanError(
            "a model in which no linear or convolutional layer ran",
            "one whose forward pass calls such layers",
            "print zeromean.explain(model), and check layers=",
        )
    means = tuple(moments[name].mean.cpu().numpy() for name in names)
    variances = tuple(moments[name].variance().cpu().numpy() for name in names)
    return Preactivations(
        layers=tuple(names),
        mean=np.array([mean.mean() for mean in means]),
        variance=np.array([variance.mean() for variance in variances]),
        unit_means=means,
        unit_variances=variances,
    )


def _ratio(part: float, whole: float) -> float:
    if whole == 0:  # of a single sample, or of units that always say the same
        return np.inf if part else 0.0
    return part / whole


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

"""The response of each layer to a constant shift of its input (Corollary 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zeromean.diagnose.batches import Batches, pairs, run
from zeromean.diagnose.layers import Layer, forward_hooks, layers_of, plain_copy, unchanged
from zeromean.diagnose.result import Diagnostic, layer_axis, number
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.plan import Layers
from zeromean.projection import vector_means
from zeromean.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class IntensityResponse(Diagnostic):
    r"""The change of each unit's output when its whole input is shifted by c.

    Args:
        layers: Name of each weight tensor, in the model's order.
        response: Average of :math:`w^T (x + c 1) - w^T x` over the layer's own inputs x, for each
            unit of each layer, shape (units,).
        expected: Expected change :math:`c\, 1^T w_0` of each unit, or :math:`c\, 1^T w` if no start
            was given, per layer, shape (units,).
        deviation: Largest difference between response and expected change over units, samples and
            pixels, shape (layers,).
        sensitivity: Response divided by the largest possible one for weights of the same length,
            :math:`|1^T w| / (\sqrt{M} \|w\|)`, 0 to 1, per layer, shape (units,).
        left_out: Reason why the corollary does not apply, by layer name.
        shift: The constant c.
        from_start: Whether ``expected`` comes from the weights at the start.
    """

    layers: tuple[str, ...]
    response: tuple[Array, ...]
    expected: tuple[Array, ...]
    deviation: Array
    sensitivity: tuple[Array, ...]
    left_out: dict[str, str]
    shift: float
    from_start: bool

    title: ClassVar[str] = "Response to intensity"
    caption: ClassVar[str] = (
        "Response of a unit to a shift of its whole input, relative to the largest possible one for"
        " weights of its length. Each point is a layer's median, and its bar spans 8 of 10 units."
    )
    source: ClassVar[str] = "Yong et al. 2020, Corollary 4.1"

    @property
    def answer(self) -> str:
        largest = max(float(np.abs(expected).max()) for expected in self.expected)
        claim = "c 1^T w0 of the start" if self.from_start else "c 1^T w"
        median = float(np.median(np.concatenate(self.sensitivity)))
        return (
            f"Shifting a layer's input by c = {self.shift:g} changes its outputs by {claim} to"
            f" within {number(float(self.deviation.max()))} (the largest of these changes is"
            f" {number(largest)}); the median unit shows {median:.1%} of the largest possible"
            " response."
        )

    def table(self) -> Table:
        rows: list[tuple[str, ...]] = []
        for index, name in enumerate(self.layers):
            sizes = np.abs(self.response[index])
            rows.append(
                (
                    name,
                    number(float(np.median(sizes))),
                    number(float(sizes.max())),
                    number(float(self.deviation[index])),
                    f"{np.median(self.sensitivity[index]):.1%}",
                )
            )
        rows += [
            (f"{name}: left out, {why}", "", "", "", "") for name, why in self.left_out.items()
        ]
        header = ("layer", "median |response|", "largest |response|", "off by", "sensitivity")
        return Table(header, rows)

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        places = np.arange(len(self.layers))
        low, middle, high = np.array(
            [np.quantile(values, (0.1, 0.5, 0.9)) for values in self.sensitivity]
        ).T
        one.vlines(places, 100 * low, 100 * high, color=color, alpha=0.4, linewidth=4)
        one.plot(places, 100 * middle, "o", color=color, markersize=4, label=label)
        one.set_ylim(bottom=0)
        one.set_ylabel("response, % of the largest possible")
        layer_axis(one, [name.removesuffix(".weight") for name in self.layers])


@torch.no_grad()
def intensity_response(
    model: nn.Module,
    batch: Batches,
    *,
    shift: float = 1.0,
    start: nn.Module | None = None,
    layers: Layers = "all",
) -> IntensityResponse:
    r"""Shift each layer's input by a constant c and measure the change of its outputs.

    Corollary 4.1: if the whole update is projected, :math:`w_t^T (x + c 1) - w_t^T x = c\, 1^T w_0`
    for any input x after any number of steps (the paper prints this with the opposite sign). It
    holds for an output that multiplies every weight of its unit by a shifted input. Only such
    outputs are measured, so pixels at a zero-padded border and strided transposed convolutions are
    left out. The inputs are those of the layers in a forward pass; the arithmetic is in float64.

    Args:
        model: Model to diagnose.
        batch: One (input, target) pair, or an iterable of pairs; targets are not used.
        shift: The constant c (default 1).
        start: Model at the start of the training, such as an earlier ``copy.deepcopy``. With it the
            response is compared with :math:`c\, 1^T w_0`, otherwise with the weights' own sum.
        layers: Selection of layers, as in :func:`zeromean.centralize`.

    Returns:
        An :class:`IntensityResponse`.

    Raises:
        ZeromeanError: The corollary applies to no layer that ran, ``start`` is another model,
            ``shift`` is 0 or not finite, or a weight or an input is not finite.

    Example:
        >>> import copy, torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> start = copy.deepcopy(model)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = zeromean.centralize(optimizer, model)
        >>> x = torch.randn(8, 3)
        >>> for _ in range(10):
        ...     optimizer.zero_grad()
        ...     model(x).square().mean().backward()
        ...     optimizer.step()
        >>> found = zeromean.diagnose.intensity_response(model, (x, None), start=start)
        >>> bool(found.deviation.max() < 1e-6)
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Corollary 4.1.
    """
    if not np.isfinite(shift) or shift == 0:
        raise ZeromeanError(f"shift={shift} is zero or not finite", "Leave shift out to use 1")
    found = layers_of(model, layers)
    origins = {
        layer.name: layer for layer in (found if start is None else layers_of(start, layers))
    }
    for layer in found:
        if layer.name not in origins or origins[layer.name].weight.shape != layer.weight.shape:
            raise ZeromeanError(
                f"start has no {layer.name} of shape {tuple(layer.weight.shape)}",
                "Pass a copy.deepcopy of the same model from before the first step",
            )
    probes: dict[str, _Probe] = {}
    left_out = {layer.name: "it did not run" for layer in found}

    def on_call(layer: Layer, inputs: tuple[Any, ...], output: object) -> None:
        if len(inputs) != 1 or layer.units(output) is None:
            left_out[layer.name] = "its output is not the product of its weights with one input"
            return
        if layer.tensor.endswith("_orig"):  # the name that pruning and spectral_norm give it
            left_out[layer.name] = "a hook computes the weights of the layer from it"
            return
        if layer.name not in probes:
            probes[layer.name] = _Probe(layer, origins[layer.name], shift)
        probes[layer.name].add(inputs[0])
        left_out[layer.name] = "no output uses all its weights on shifted inputs"

    with unchanged(model), forward_hooks(found, on_call):
        for inputs, _ in pairs(batch, model):
            run(model, inputs)
    probes = {name: probe for name, probe in probes.items() if probe.count}
    left_out = {name: why for name, why in left_out.items() if name not in probes}
    if not probes:
        raise ZeromeanError(
            "Corollary 4.1 applies to no layer that ran: it needs a linear layer, or a convolution"
            " with pixels away from its padding",
            "Pass larger images, check layers=, or fold a copy of a re-parametrized model",
        )
    for name, probe in probes.items():
        if not probe.deviation.isfinite():
            raise ZeromeanError(
                f"the input of {name} is not finite on these batches", "Check the inputs"
            )
    order = [layer.name for layer in found if layer.name in probes]
    return IntensityResponse(
        layers=tuple(order),
        response=tuple((probes[n].total / probes[n].count).cpu().numpy() for n in order),
        expected=tuple(probes[n].expected.cpu().numpy() for n in order),
        deviation=np.array([float(probes[n].deviation) for n in order]),
        sensitivity=tuple(probes[n].sensitivity().cpu().numpy() for n in order),
        left_out=left_out,
        shift=shift,
        from_start=start is not None,
    )


class _Probe:
    """One layer in float64, without its parametrization, applied to shifted inputs."""

    def __init__(self, layer: Layer, origin: Layer, shift: float) -> None:
        module: Any = plain_copy(layer.module).double()
        counter: Any = plain_copy(layer.module).double()
        getattr(counter, layer.tensor).fill_(1.0)  # its output counts the inputs that are 1
        # The copies have the original's hooks too, which a call of forward does not run.
        self._forward: Callable[[Tensor], Tensor] = module.forward
        self._count: Callable[[Tensor], Tensor] = counter.forward
        self._layer = layer
        self._shift = shift
        self._weight = layer.weight.double()
        self._size = layer.fan_in.size(self._weight.shape)
        # The start may be on another device.
        self.expected = shift * _sums(origin.weight.to(self._weight), layer.fan_in)
        self.total = torch.zeros_like(self.expected)
        self.count = 0
        self.deviation = self.expected.new_zeros(())

    def add(self, inputs: Tensor) -> None:
        inputs = inputs.double()
        response = self._difference(self._forward, inputs + self._shift, inputs)
        ones = self._difference(self._count, torch.ones_like(inputs), torch.zeros_like(inputs))
        inside = (ones - self._size).abs().amax(-1) < 0.5
        response = response[inside]
        if len(response):
            self.total += response.sum(0)
            self.count += len(response)
            difference = (response - self.expected).abs().max()
            self.deviation = torch.maximum(self.deviation, difference)

    def sensitivity(self) -> Tensor:
        lengths = _sums(self._weight.square(), self._layer.fan_in).sqrt()
        most = abs(self._shift) * self._size**0.5 * lengths
        response = (self.total / self.count).abs()
        return torch.where(most > 0, response / most.clamp_min(torch.finfo(most.dtype).tiny), 0.0)

    def _difference(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        units = self._layer.units(f(x) - f(y))
        assert units is not None
        return units


def _sums(x: Tensor, fan_in: FanIn) -> Tensor:
    """Return the sum of each weight vector, in the order of the units."""
    (means,) = vector_means([x], [fan_in])
    return means.flatten() * fan_in.size(x.shape)

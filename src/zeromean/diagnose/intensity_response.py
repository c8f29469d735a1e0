"""Corollary 4.1 layer by layer: what a shift of a layer's input does to its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zeromean.diagnose.batches import Batches, pairs, run
from zeromean.diagnose.layers import Layer, layers_of, listening, plain_copy, unchanged
from zeromean.diagnose.result import Diagnostic, layer_axis, number
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.plan import Layers
from zeromean.projection import vector_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IntensityResponse(Diagnostic):
    r"""What each unit answers when its whole input is raised by c.

    Args:
        layers: Name of each weight tensor, in the model's order.
        response: For each layer, :math:`w^T (x + c 1) - w^T x` of each unit, measured on the
            layer's own inputs and averaged, shape (units,).
        expected: For each layer, :math:`c\, 1^T w_0` of each unit; of the weights themselves where
            no start was given, shape (units,).
        deviation: Of each layer, the largest difference between the two over units, samples and
            pixels, shape (layers,).
        sensitivity: For each layer, the response over the largest that weights of the same length
            could show, :math:`|1^T w| / (\sqrt{M} \|w\|)`, from 0 to 1, shape (units,).
        left_out: Layer -> why the corollary claims nothing there.
        shift: c.
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
        "A unit's answer to a shift of its whole input, relative to the largest that weights of"
        " its length could give; medians, the whiskers hold 8 units of 10."
    )
    source: ClassVar[str] = "Yong et al. 2020, Corollary 4.1"

    @property
    def answer(self) -> str:
        largest = max(float(np.abs(expected).max()) for expected in self.expected)
        claim = "c 1^T w0 of the start" if self.from_start else "c 1^T w"
        middle = float(np.median(np.concatenate(self.sensitivity)))
        return (
            f"Raising a layer's input by {self.shift:g} changes its outputs by {claim} to within"
            f" {number(float(self.deviation.max()))} (the largest is {number(largest)}); the"
            f" middling unit shows {middle:.1%} of the largest response possible."
        )

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("layer", "median |response|", "largest |response|", "off by", "sensitivity")
        ]
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
        return rows

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        places = np.arange(len(self.layers))
        low, middle, high = np.array(
            [np.quantile(values, (0.1, 0.5, 0.9)) for values in self.sensitivity]
        ).T
        one.vlines(places, 100 * low, 100 * high, color=color, alpha=0.4, linewidth=4)
        one.plot(places, 100 * middle, "o", color=color, markersize=4, label=label)
        one.set_ylim(bottom=0)
        one.set_ylabel("response, % of largest")
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
    r"""Raise each layer's input by a constant c and measure what its outputs answer.

    Corollary 4.1: if the whole update is projected, :math:`w_t^T (x + c 1) - w_t^T x = c\, 1^T w_0`
    for any input x, however long the training (the paper prints the same magnitude with the other
    sign). It is claimed where every weight meets a shifted input, and measured there alone: not on
    pixels at a zero-padded border, and not in strided transposed convolutions. The inputs are
    those that the layers meet in a forward pass, the arithmetic is in float64.

    Args:
        model: The model.
        batch: One (input, target) pair, or an iterable of them; targets are not used.
        shift: c (default 1).
        start: The model as it was at the start, such as a ``copy.deepcopy`` from then: the response
            is compared with :math:`c\, 1^T w_0`. Without it, with the weights' own sum.
        layers: Which layers, as in :func:`zeromean.centralize`.

    Returns:
        An :class:`IntensityResponse`.

    Raises:
        ZeromeanError: The corollary claims nothing for any layer that ran, ``start`` is another
            model, or ``shift`` is 0 or not finite.

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
        raise ZeromeanError(f"shift={shift}", "a finite number but 0", "leave it at 1")
    found = layers_of(model, layers)
    origins = {layer.name: layer for layer in found if start is None}
    if start is not None:
        origins = {layer.name: layer for layer in layers_of(start, layers)}
        for layer in found:
            if layer.name not in origins or origins[layer.name].weight.shape != layer.weight.shape:
                raise ZeromeanError(
                    f"a start without {layer.name} of shape {tuple(layer.weight.shape)}",
                    "the same model, as it was before training",
                    "copy.deepcopy(model) before the first step",
                )
    probes: dict[str, _Probe] = {}
    left_out = {layer.name: "it did not run" for layer in found}

    def heard(layer: Layer, inputs: tuple[Any, ...], output: object) -> None:
        if len(inputs) != 1 or layer.units(output) is None:
            left_out[layer.name] = "its output is not its weights' product with one input"
            return
        if layer.name not in probes:
            probes[layer.name] = _Probe(layer, origins[layer.name], shift)
        probes[layer.name].add(inputs[0])
        left_out[layer.name] = "no output meets all its weights with the shifted input"

    with unchanged(model), listening(found, heard):
        for inputs, _ in pairs(batch, model):
            run(model, inputs)
    probes = {name: probe for name, probe in probes.items() if probe.count}
    left_out = {name: why for name, why in left_out.items() if name not in probes}
    if not probes:
        raise ZeromeanError(
            "a model in which Corollary 4.1 claims nothing",
            "a linear or convolutional layer that ran, with pixels away from its padding",
            "pass larger images, or check layers=",
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
    """One layer, in float64 and without its parametrization, given shifted inputs."""

    def __init__(self, layer: Layer, origin: Layer, shift: float) -> None:
        module: Any = plain_copy(layer.module).double()
        counter: Any = plain_copy(layer.module).double()
        getattr(counter, layer.tensor).fill_(1.0)  # its output counts the weights that met a 1
        # Called without the hooks that were copied too.
        self._answer: Callable[[Tensor], Tensor] = module.forward
        self._count: Callable[[Tensor], Tensor] = counter.forward
        self._layer = layer
        self._shift = shift
        self._weight = layer.weight.double()
        self._size = layer.fan_in.size(self._weight.shape)
        self.expected = shift * _sums(origin.weight.double(), layer.fan_in)
        self.total = torch.zeros_like(self.expected)
        self.count = 0
        self.deviation = torch.zeros(())

    def add(self, inputs: Tensor) -> None:
        inputs = inputs.double()
        answer = self._difference(self._answer, inputs + self._shift, inputs)
        met = self._difference(self._count, torch.ones_like(inputs), torch.zeros_like(inputs))
        inside = (met - self._size).abs().amax(-1) < 0.5
        answer = answer[inside]
        if len(answer):
            self.total += answer.sum(0)
            self.count += len(answer)
            difference = (answer - self.expected).abs().max()
            self.deviation = torch.maximum(self.deviation.to(difference), difference)

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
    """The sum of each weight vector, in the order of the units."""
    (means,) = vector_means([x], [fan_in])
    return means.flatten() * fan_in.size(x.shape)

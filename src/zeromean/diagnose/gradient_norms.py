"""The size of gradients before and after centering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.centralization.centering import Centering
from zeromean.centralization.centralize import centering_of
from zeromean.centralization.validate import check_subjects, refuse_loss
from zeromean.diagnose.batches import Batches, Loss, cross_entropy, pairs, run
from zeromean.diagnose.layers import check_model, unchanged, weights_of
from zeromean.diagnose.result import Diagnostic, layer_axis, number, percent
from zeromean.errors import ZeromeanError
from zeromean.gc_options import GCOptions
from zeromean.measurement.observer import StepObserver
from zeromean.measurement.statistics import gradient_statistics
from zeromean.plan import Layers, Row, check_without_model
from zeromean.sharded import is_sharded
from zeromean.tables import Table, amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


class GradientNorms(Diagnostic):
    r"""The gradients g of some steps, before centering, and their projections :math:`P g`.

    ``layers`` names the parameters. Arrays of shape (steps, layers) are ``norm``
    (:math:`\|g\|_2`), ``projected_norm`` (:math:`\|P g\|_2`), ``largest`` (:math:`\max |g|`),
    ``projected_largest``, and ``removed``, the share of the energy
    :math:`1 - \|P g\|^2 / \|g\|^2`. They are nan if a parameter had no gradient, and inf if the
    gradient was not finite. The result of an optimizer grows with each step until ``stop()`` or
    the end of its ``with`` block.
    """

    title = "Gradients before and after centering"
    caption = (
        "Norm and largest entry before and after centering: for a model by layer, medians over the"
        " batches; for an optimizer by step, over all layers."
    )
    source = "Yong et al. 2020, Fig. 4"
    panels: ClassVar[int] = 2

    def __init__(self, layers: Sequence[str], by_layer: bool = False) -> None:
        self.layers = tuple(layers)
        self._by_layer = by_layer
        self._steps: list[Tensor] = []
        self._stop: Callable[[], None] | None = None

    @property
    def norm(self) -> Array:
        return self._measured()[:, :, 0]

    @property
    def projected_norm(self) -> Array:
        return self._measured()[:, :, 1]

    @property
    def largest(self) -> Array:
        return self._measured()[:, :, 2]

    @property
    def projected_largest(self) -> Array:
        return self._measured()[:, :, 3]

    @property
    def removed(self) -> Array:
        norm, projected = self.norm, self.projected_norm
        energy = np.where((norm > 0) & np.isfinite(norm), norm, np.nan) ** 2
        return np.asarray(np.clip(1 - projected**2 / energy, 0, 1))

    def stop(self) -> None:
        """Stop measuring the optimizer. A second call does nothing."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def __enter__(self) -> GradientNorms:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def answer(self) -> str:
        if not self._steps:
            return "No step has been measured yet."
        count = len(self._steps)
        batches = f"{count:,} batch{'' if count == 1 else 'es'}"
        steps = batches if self._by_layer else amount(count, "step")
        bad = np.isinf(self.norm)
        if bad.any():
            first = self.layers[int(bad.any(0).argmax())]
            return (
                f"The gradients of {bad.any(0).sum()} of {len(self.layers)} layers ({first} first)"
                f" are not finite in {bad.any(1).sum()} of {steps}."
            )
        energy = np.nansum(self.norm**2)
        if not energy:
            return f"All gradients are zero or missing over {steps}."
        removed = _medians(self.removed)
        most = int(np.nanargmax(removed))
        share = max(1 - np.nansum(self.projected_norm**2) / energy, 0)
        return (
            f"Centering removes {share:.2%} of the gradients' energy over {steps}, most from"
            f" {self.layers[most]} ({removed[most]:.2%})."
        )

    def table(self) -> Table:
        arrays = (self.norm, self.projected_norm, self.largest, self.projected_largest)
        medians = [_medians(array) for array in arrays]
        removed = _medians(self.removed)
        rows = [
            (name, *(number(float(m[n])) for m in medians), percent(float(removed[n])))
            for n, name in enumerate(self.layers if self._steps else ())
        ]
        return Table(("layer", "||g||", "||Pg||", "max |g|", "max |Pg|", "removed"), rows)

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        upper, lower = axes
        total = _medians if self._by_layer else _norm_over_layers
        largest = _medians if self._by_layer else _largest_over_layers
        for one, values, line, name in (
            (upper, total(self.norm), "-", "before centering"),
            (upper, total(self.projected_norm), "--", "centered"),
            (lower, largest(self.largest), "-", "before centering"),
            (lower, largest(self.projected_largest), "--", "centered"),
        ):
            one.plot(
                np.arange(len(values)) + (0 if self._by_layer else 1), values, line, color=color,
                linewidth=1.2, marker="o" if self._by_layer or len(values) == 1 else None,
                markersize=4, markerfacecolor="white" if name == "centered" else color,
                label=name if label is None else f"{label}, {name}",
            )  # fmt: skip
            one.set_yscale("log")
            one.set_xlabel("step")
            if self._by_layer:
                layer_axis(one, [name.removesuffix(".weight") for name in self.layers])
            one.legend(frameon=False)
        upper.set_ylabel("norm")
        lower.set_ylabel("largest entry")

    def _measured(self) -> Array:
        if not self._steps:
            return np.empty((0, len(self.layers), 4))
        return torch.stack(self._steps).double().cpu().numpy()

    @torch.no_grad()
    def _add(
        self, rows: Sequence[Row], gradients: Sequence[Tensor | None], scale: Tensor | None = None
    ) -> None:
        """Measure one step; the numbers stay on the device, so that the step need not wait."""
        device = rows[0].parameter.device
        measured = torch.full((len(rows), 4), torch.nan, device=device, dtype=torch.float64)
        for n, (row, gradient) in enumerate(zip(rows, gradients, strict=True)):
            if gradient is None:
                continue  # nan marks a missing gradient
            # In float32, squares of vanishing gradients would be 0, those of exploding ones inf.
            g = gradient.to(torch.promote_types(gradient.dtype, torch.float64))
            if scale is not None:
                g = g / scale.to(g.device)
            assert row.fan_in is not None
            found = gradient_statistics([g], [row.fan_in])
            numbers = torch.cat([found.sums[0, [1, 3]].sqrt(), found.maxima[0]])
            measured[n] = numbers.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self._steps.append(measured)


def gradient_norms(
    subject: Optimizer | nn.Module,
    batches: Batches | None = None,
    *,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    layers: Layers = "all",
    embeddings: bool = False,
) -> GradientNorms:
    r"""Measure norm and largest entry of each layer's gradient, before and after centering.

    For an optimizer: measures every step from now on. g is the gradient that the step receives,
    before it is centered, and :math:`P g` the centered one, whether or not the optimizer centers.
    (With ``at="backward"`` gradients are already centered when the step receives them.)

    For a model: measures the gradient of the mean loss of each batch, one step per batch. The model
    runs in its current mode and stays unchanged.

    Args:
        subject: Optimizer to measure during training, or model.
        batches: For a model: one (input, target) pair, or an iterable of pairs.
        model: For an optimizer: model whose layers define the axes. Without it, a centralized
            optimizer or a drop-in brings its plan, or its model if ``layers`` or ``embeddings`` is
            given; for another optimizer shapes alone are used.
        loss: For a model: function of output and target, the mean over the batch. The default is
            cross-entropy, which needs class indices or probabilities as targets.
        layers, embeddings: Selection of layers, as in :func:`zeromean.centralize`.

    Returns:
        A :class:`GradientNorms`; that of an optimizer is a context manager too.

    Raises:
        ZeromeanError: ``subject`` is neither; an argument does not apply to it; the model has no
            layer with fan-in axes, or none that requires a gradient; cross-entropy does not apply
            to the targets; or the loss is not a single number.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with zeromean.diagnose.gradient_norms(optimizer, model=model) as norms:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(5, 3)).square().sum().backward()
        ...         optimizer.step()
        >>> norms.norm.shape
        (4, 1)
        >>> bool((norms.projected_norm <= norms.norm).all())
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Proposition 4.2 and Fig. 4.
    """
    if isinstance(subject, Optimizer):
        for name, value in (("batches", batches), ("loss", loss)):
            if value is not None:
                raise ZeromeanError(
                    f"{name} has no effect with an optimizer, whose own steps are measured",
                    f"Leave {name} out, or pass the model first",
                )
        return _follow(check_subjects(subject, model), model, layers, embeddings)
    check_model(subject, real=False)
    if model is not None or batches is None:
        raise ZeromeanError(
            "the model is given twice" if model is not None else "batches are missing",
            "Call gradient_norms(model, batches) or gradient_norms(optimizer, model=model)",
        )
    return _of_batches(subject, batches, loss or cross_entropy, layers, embeddings)


def _of_batches(
    model: nn.Module, batches: Batches, loss: Loss, layers: Layers, embeddings: bool
) -> GradientNorms:
    rows = weights_of(model, layers, embeddings)
    norms = GradientNorms([row.name for row in rows], by_layer=True)
    trained = [row.parameter for row in rows if row.parameter.requires_grad]
    if not trained:
        raise ZeromeanError(
            "no weight that can be centered requires a gradient", "Call model.requires_grad_()"
        )
    for inputs, target in pairs(batches, model):
        with unchanged(model), torch.enable_grad():
            value = loss(run(model, inputs), target)
            refuse_loss(value)
            gradients = torch.autograd.grad(value, trained, allow_unused=True)
        by_id = {id(p): g for p, g in zip(trained, gradients, strict=True)}
        norms._add(rows, [by_id.get(id(row.parameter)) for row in rows])
    return norms


def _follow(
    optimizer: Optimizer, model: nn.Module | None, layers: Layers, embeddings: bool
) -> GradientNorms:
    rows = _rows(optimizer, model, layers, embeddings)
    if not rows:
        raise ZeromeanError(
            "the optimizer holds no parameter that can be centered",
            "Pass the model whose parameters it updates",
        )
    if any(is_sharded(row.parameter) for row in rows):
        raise ZeromeanError(
            "the optimizer's parameters are sharded over processes",
            "Use zeromean.monitor, which measures shards",
        )
    norms = GradientNorms([row.name for row in rows])

    def see_gradients(optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)
        norms._add(rows, [row.parameter.grad for row in rows], scale)

    observer = StepObserver(
        optimizer, lambda optimizer: True, see_gradients, lambda optimizer, observed: None
    )
    norms._stop = observer.remove
    return norms


def _rows(
    optimizer: Optimizer, model: nn.Module | None, layers: Layers, embeddings: bool
) -> Sequence[Row]:
    """Return the parameters to measure: by the model, the optimizer's own plan, or shapes."""
    centering = centering_of(optimizer)
    if model is None and centering is not None:
        if layers == "all" and not embeddings:
            return centering.current_plan(optimizer).centered
        model = centering.model
    if model is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [row for row in weights_of(model, layers, embeddings) if id(row.parameter) in held]
    check_without_model(layers, embeddings)
    centering = Centering(optimizer, None, GCOptions(layers=layers))
    centering.warn_of_doubt()
    return centering.plan.centered


def _medians(values: Array) -> Array:
    """Return the median over the steps that had a gradient; nan if there is none."""
    columns = [column[~np.isnan(column)] for column in values.T]
    return np.array([np.median(column) if len(column) else np.nan for column in columns])


def _norm_over_layers(values: Array) -> Array:
    """Return the norm of each step's whole gradient; missing ones count as zero."""
    return np.asarray(np.sqrt(np.nansum(values**2, 1)))


def _largest_over_layers(values: Array) -> Array:
    """Return the largest entry of each step; missing ones count as zero."""
    return np.asarray(np.where(np.isnan(values), 0, values).max(1))

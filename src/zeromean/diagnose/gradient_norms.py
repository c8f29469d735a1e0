"""How large the gradients are, and what centering takes from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zeromean.centralization.centering import Centering
from zeromean.centralization.centralize import handle_of
from zeromean.centralization.validate import refuse_loss
from zeromean.diagnose.batches import Batches, Loss, pairs, run
from zeromean.diagnose.layers import refuse_model, unchanged, weights_of
from zeromean.diagnose.result import Diagnostic, layer_axis, number
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.gc_options import GCOptions
from zeromean.plan import Layers, Row
from zeromean.projection import shift_, vector_means
from zeromean.sharded import is_sharded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


class GradientNorms(Diagnostic):
    r"""The gradients g of some steps, and their projections :math:`P g`.

    Arrays of shape (steps, layers) are the attributes ``norm`` (:math:`\|g\|_2`),
    ``projected_norm`` (:math:`\|P g\|_2`), ``largest`` (:math:`\max |g|`) and
    ``projected_largest``, nan where a parameter had no gradient and inf where it was not finite;
    ``removed`` is the share of the energy, :math:`1 - \|P g\|^2 / \|g\|^2`. ``layers`` names the
    parameters. One that follows an optimizer grows with each step, until ``stop()`` or the end of
    its ``with``.
    """

    title = "Gradients before and after centering"
    caption = (
        "Norm and largest entry, as they are and centered: by layer, medians over the batches, of a"
        " model; by step, over all layers, of an optimizer."
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
        """Follow the optimizer no more; a second call does nothing."""
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
            return "No step was seen yet."
        if np.isinf(self.norm).any():
            bad = np.isinf(self.norm)
            first = self.layers[int(bad.any(0).argmax())]
            return (
                f"The gradients of {bad.any(0).sum()} of {len(self.layers)} layers ({first} first)"
                f" are not finite in {bad.any(1).sum()} of {len(self._steps)}"
                f" {'batches' if self._by_layer else 'steps'}."
            )
        energy = np.nansum(self.norm**2)
        share = 1 - np.nansum(self.projected_norm**2) / energy if energy else 0.0
        removed = _middle(self.removed)
        most = int(np.nanargmax(removed)) if not np.isnan(removed).all() else 0
        return (
            f"Centering takes {max(share, 0):.2%} of the gradients' energy over"
            f" {len(self._steps)} {'batch' if self._by_layer else 'step'}"
            f"{'' if len(self._steps) == 1 else 'es' if self._by_layer else 's'},"
            f" most from {self.layers[most]} ({removed[most]:.2%})."
        )

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("layer", "||g||", "||Pg||", "max |g|", "max |Pg|", "removed")
        ]
        if not self._steps:
            return rows
        measures = (self.norm, self.projected_norm, self.largest, self.projected_largest)
        middles = [_middle(measure) for measure in measures]
        for index, name in enumerate(self.layers):
            cells = [number(float(middle[index])) for middle in middles]
            rows.append((name, *cells, f"{_middle(self.removed)[index]:.2%}"))
        return rows

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        upper, lower = axes
        total = _middle if self._by_layer else _length_over_layers
        largest = _middle if self._by_layer else _largest_over_layers
        measures = (
            (upper, total(self.norm), "-", "as it is"),
            (upper, total(self.projected_norm), "--", "centered"),
            (lower, largest(self.largest), "-", "as it is"),
            (lower, largest(self.projected_largest), "--", "centered"),
        )
        for one, values, line, what in measures:
            name = what if label is None else f"{label}, {what}"
            marker = "o" if self._by_layer or len(values) == 1 else None
            places = np.arange(len(values)) + (0 if self._by_layer else 1)
            one.plot(
                places, values, line, color=color, linewidth=1.2, marker=marker, markersize=4,
                markerfacecolor=color if what == "as it is" else "white", label=name,
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
    def _add(self, gradients: Sequence[Tensor | None], fan_ins: Sequence[FanIn]) -> None:
        rows = [_measure(g, fan_in) for g, fan_in in zip(gradients, fan_ins, strict=True)]
        device = next((row.device for row in rows if row is not None), torch.device("cpu"))
        absent = torch.full((4,), torch.nan, device=device, dtype=torch.float64)
        # Stays on the device until it is asked for: no wait for it in a step.
        self._steps.append(torch.stack([absent if row is None else row for row in rows]))


def _measure(gradient: Tensor | None, fan_in: FanIn) -> Tensor | None:
    """Norm, projected norm, largest entry, projected largest entry."""
    if gradient is None:
        return None
    if is_sharded(gradient):
        raise ZeromeanError(
            "a gradient that is sharded over processes",
            "gradients that are whole in this process",
            "use zeromean.monitor, which measures whole tensors",
        )
    whole = gradient.float() if gradient.dtype.itemsize < 4 else gradient
    projected = whole.clone()
    shift_([projected], [fan_in], [-mean for mean in vector_means([whole], [fan_in])])
    measures = (whole.norm(), projected.norm(), whole.abs().max(), projected.abs().max())
    # nan is what no gradient leaves.
    return torch.stack(measures).double().nan_to_num(nan=torch.inf, posinf=torch.inf)


def gradient_norms(
    subject: Optimizer | nn.Module,
    batches: Batches | None = None,
    *,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    layers: Layers = "all",
    embeddings: bool = False,
) -> GradientNorms:
    r"""Norm and largest entry of each layer's gradient, before and after centering.

    Of an optimizer: follows it from now on and measures, after each step, the gradients g that the
    step used and their projections :math:`P g`. Where it is centralized at="gradient" both are the
    same. (The drop-in optimizers of :mod:`zeromean.optim` center without writing ``.grad``.)

    Of a model: measures the gradient of the mean loss of each batch, one step a batch, and changes
    nothing. The model runs in the mode that it is in.

    Args:
        subject: The optimizer to follow, or a model.
        batches: For a model: one (input, target) pair, or an iterable of them.
        model: For an optimizer: whose layers tell the axes. Without it a centralized optimizer's
            own plan is used, and shapes alone for another.
        loss: For a model: a function of output and target, the mean over the batch; cross-entropy
            by default.
        layers, embeddings: Which layers, as in :func:`zeromean.centralize`.

    Returns:
        A :class:`GradientNorms`; one that follows an optimizer is a context manager too.

    Raises:
        ZeromeanError: ``subject`` is neither, an argument does not go with it, the model has no
            layer with fan-in axes or none that requires a gradient, or the loss is no single
            number.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = zeromean.centralize(optimizer, model)
        >>> with zeromean.diagnose.gradient_norms(optimizer) as norms:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(5, 3)).square().sum().backward()
        ...         optimizer.step()
        >>> norms.norm.shape
        (4, 1)
        >>> bool((norms.removed < 1e-6).all())
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Proposition 4.2 and Fig. 4.
    """
    if isinstance(subject, Optimizer):
        for name, value in (("batches", batches), ("loss", loss)):
            if value is not None:
                raise ZeromeanError(
                    f"{name} with an optimizer, whose own steps are followed",
                    "an optimizer alone, or a model with batches",
                    f"leave {name} out, or pass the model first",
                )
        return _follow(subject, model, layers, embeddings)
    refuse_model(subject)
    if model is not None or batches is None:
        raise ZeromeanError(
            "a model twice" if model is not None else "a model without batches",
            "a model with batches, or an optimizer",
            "pass gradient_norms(model, batches) or gradient_norms(optimizer, model=model)",
        )
    return _of_batches(subject, batches, loss or F.cross_entropy, layers, embeddings)


def _of_batches(
    model: nn.Module, batches: Batches, loss: Loss, layers: Layers, embeddings: bool
) -> GradientNorms:
    rows = weights_of(model, layers, embeddings)
    norms = GradientNorms([row.name for row in rows], by_layer=True)
    trained = [row.parameter for row in rows if row.parameter.requires_grad]
    if not trained:
        raise ZeromeanError(
            "a model in which no weight that is centered requires a gradient",
            "weights to differentiate by",
            "call model.requires_grad_()",
        )
    for inputs, target in pairs(batches, model):
        with unchanged(model), torch.enable_grad():
            value = loss(run(model, inputs), target)
            refuse_loss(value)
            gradients = torch.autograd.grad(value, trained, allow_unused=True)
        by_id = {id(p): g for p, g in zip(trained, gradients, strict=True)}
        norms._add([by_id.get(id(row.parameter)) for row in rows], [_fan_in(row) for row in rows])
    return norms


def _follow(
    optimizer: Optimizer, model: nn.Module | None, layers: Layers, embeddings: bool
) -> GradientNorms:
    rows = _rows(optimizer, model, layers, embeddings)
    if not rows:
        raise ZeromeanError(
            "an optimizer of which nothing is centered",
            "at least one parameter with fan-in axes",
            "pass the model whose parameters it updates",
        )
    norms = GradientNorms([row.name for row in rows])

    inside = False

    def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal inside
        inside = True

    # After the step: whatever else changes the gradients before it has done so by then.
    def after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal inside
        if inside:  # super().step() fires the hooks again inside: that is the same step
            norms._add([row.parameter.grad for row in rows], [_fan_in(row) for row in rows])
        inside = False

    hooks = (
        optimizer.register_step_pre_hook(before_step),
        optimizer.register_step_post_hook(after_step),
    )

    def stop() -> None:
        for hook in hooks:
            hook.remove()

    norms._stop = stop
    return norms


def _rows(
    optimizer: Optimizer, model: nn.Module | None, layers: Layers, embeddings: bool
) -> Sequence[Row]:
    """The parameters to follow: of the model, or of the optimizer's own plan, or by shapes."""
    if model is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [row for row in weights_of(model, layers, embeddings) if id(row.parameter) in held]
    handle = handle_of(optimizer)
    if handle is not None and layers == "all" and not embeddings:
        return handle.plan.centered
    centering = Centering(optimizer, None, GCOptions(layers=layers, embeddings=embeddings))
    centering.warn_of_doubt()
    return centering.plan.centered


def _fan_in(row: Row) -> FanIn:
    assert row.fan_in is not None
    return row.fan_in


def _middle(values: Array) -> Array:
    """The median over the steps that had a gradient; nan where none had."""
    return np.array(
        [np.median(column[~np.isnan(column)]) if (~np.isnan(column)).any() else np.nan
         for column in values.T]
    )  # fmt: skip


def _length_over_layers(values: Array) -> Array:
    """The norm of each step's whole gradient; nan counts as nothing."""
    return np.asarray(np.sqrt(np.nansum(values**2, 1)))


def _largest_over_layers(values: Array) -> Array:
    """The largest of each step; nan counts as nothing."""
    return np.asarray(np.where(np.isnan(values), 0, values).max(1))

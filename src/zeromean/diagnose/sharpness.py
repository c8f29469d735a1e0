"""The sharpness of the loss with and without centering (Proposition 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zeromean.centralization.explain import explain
from zeromean.centralization.validate import refuse_loss
from zeromean.diagnose.batches import Batches, Loss, Pair, count, cross_entropy, pairs, run
from zeromean.diagnose.lanczos import Product, extreme_eigenvalue, flat, split_like
from zeromean.diagnose.layers import check_model, differentiable
from zeromean.diagnose.result import GRAY, ORANGE, Diagnostic, number
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import center_
from zeromean.plan import Layers
from zeromean.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Sharpness(Diagnostic):
    r"""The size of the Hessian H of the mean loss, where P projects every centered weight.

    Args:
        hessian_norm: :math:`\|H\|_2`, the largest magnitude of its eigenvalues.
        projected_norm: :math:`\|P H\|_2`, its largest singular value; at most ``hessian_norm``.
        restricted_max: Largest eigenvalue of :math:`P H P`, the curvature along zero-mean
            directions. P H P is 0 along the directions that P removes, so this can exceed the
            largest eigenvalue of an H with negative curvature.
    """

    hessian_norm: float
    projected_norm: float
    restricted_max: float

    title: ClassVar[str] = "Sharpness"
    caption: ClassVar[str] = "Spectral norms of H and PH, and the largest eigenvalue of PHP."
    source: ClassVar[str] = "Yong et al. 2020, Proposition 4.2"

    @property
    def answer(self) -> str:
        share = self.projected_norm / self.hessian_norm if self.hessian_norm else 1.0
        return (
            f"Centering leaves {share:.1%} of the Hessian's norm: ||H|| ="
            f" {number(self.hessian_norm)}, ||PH|| = {number(self.projected_norm)}; the sharpest"
            f" zero-mean direction has curvature {number(self.restricted_max)}."
        )

    def table(self) -> Table:
        rows = [
            ("||H||, spectral norm of the Hessian", number(self.hessian_norm)),
            ("||PH||, spectral norm after projection", number(self.projected_norm)),
            ("largest eigenvalue of PHP", number(self.restricted_max)),
        ]
        return Table(("quantity", "value"), rows)

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        values = (self.hessian_norm, self.projected_norm, self.restricted_max)
        bars = one.bar(range(3), values, color=(GRAY, color, ORANGE), width=0.6, label=label)
        one.bar_label(bars, [number(value) for value in values], padding=2, fontsize=11)
        one.margins(y=0.15)
        one.set_xticks(range(3), ["||H||", "||PH||", "largest of PHP"])
        one.axhline(0, color="#999999", linewidth=0.8)
        one.set_ylabel("curvature")


def sharpness(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss = cross_entropy,
    layers: Layers = "all",
    embeddings: bool = False,
    tolerance: float = 1e-3,
) -> Sharpness:
    r"""Measure Proposition 4.2: :math:`\|P H\|_2 \le \|H\|_2`, H the Hessian of the mean loss.

    H is the second derivative by all parameters that require a gradient; P centers those that
    :func:`zeromean.centralize` would center. Products with H are exact (double backward); the
    eigenvalues come from scipy's Lanczos iteration. The model runs in its current mode, with the
    same random numbers for every product, and stays unchanged.

    Args:
        model: Model in float32 or float64.
        batches: One (input, target) pair, or an iterable of pairs; all are kept in memory.
        loss: Function of output and target, the mean over the batch. The default is cross-entropy,
            which needs class indices or probabilities as targets.
        layers, embeddings: Selection of centered layers, as in :func:`zeromean.centralize`.
        tolerance: Relative accuracy of the eigenvalues, between 0 and 1 (default 1e-3).

    Returns:
        A :class:`Sharpness`.

    Raises:
        ZeromeanError: Nothing requires a gradient; the model is complex or in half precision; the
            loss is not a single finite number; cross-entropy does not apply to the targets;
            ``tolerance`` is out of range; or the iteration does not converge.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(2, 1, bias=False)  # loss (w . x)^2, so H = 2 x x^T
        >>> batch = torch.tensor([[3.0, 1.0]]), None
        >>> found = zeromean.diagnose.sharpness(model, batch, loss=lambda z, _: z.square().mean())
        >>> round(found.hessian_norm, 3), round(found.restricted_max, 3)
        (20.0, 4.0)
        >>> round(found.projected_norm, 3)  # |P x| |x| 2
        8.944

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Proposition 4.2.
    """
    if not 0 < tolerance < 1:
        raise ZeromeanError(f"tolerance={tolerance} is not between 0 and 1", "Leave tolerance out")
    check_model(model, precise=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ZeromeanError(
            "no parameter of the model requires a gradient", "Call model.requires_grad_()"
        )
    fan_in_of = {
        id(row.parameter): row.fan_in
        for row in explain(model, layers=layers, embeddings=embeddings).centered
    }
    fan_ins = [fan_in_of.get(id(parameter)) for parameter in parameters]
    hessian = _hessian(model, parameters, pairs(batches, model), loss)

    def project(vector: Array) -> Array:
        return flat(_projected(split_like(vector, parameters), fan_ins))

    size = sum(parameter.numel() for parameter in parameters)
    squared = extreme_eigenvalue(  # (PH)^T (PH) = H P H
        lambda vector: hessian(project(hessian(vector))), size, "magnitude", tolerance
    )
    projected_norm = max(squared, 0.0) ** 0.5
    norm = abs(extreme_eigenvalue(hessian, size, "magnitude", tolerance))
    return Sharpness(
        # Both estimates are lower bounds, and ||PH|| is one of ||H||.
        hessian_norm=max(norm, projected_norm),
        projected_norm=projected_norm,
        restricted_max=extreme_eigenvalue(
            lambda vector: project(hessian(project(vector))), size, "largest", tolerance
        ),
    )


def _hessian(
    model: nn.Module, parameters: list[nn.Parameter], batches: list[Pair], loss: Loss
) -> Product:
    """Return the product with the Hessian of the mean loss over all samples: double backward."""
    samples = sum(count(inputs) for inputs, _ in batches)

    def gradients(inputs: Any, target: Any) -> Sequence[Tensor]:
        with differentiable(model):  # dropout drops the same units each time
            value = loss(run(model, inputs), target)
            refuse_loss(value)
            return torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)

    # The graph of a single batch is kept, so that each product is one backward pass.
    kept = gradients(*batches[0]) if len(batches) == 1 else None

    def product(vector: Array) -> Array:
        along = [x.to(p) for x, p in zip(split_like(vector, parameters), parameters, strict=True)]
        total = np.zeros_like(vector)
        for inputs, target in batches:
            columns = zip(kept or gradients(inputs, target), along, strict=True)
            # A gradient without a graph does not depend on the parameters: no curvature.
            curved = [(gradient, v) for gradient, v in columns if gradient.requires_grad]
            if not curved:
                continue
            with differentiable(model):  # checkpointing repeats the forward pass here
                found = torch.autograd.grad(
                    [gradient for gradient, _ in curved],
                    parameters,
                    grad_outputs=[v for _, v in curved],
                    retain_graph=True,
                    materialize_grads=True,
                )
            total += flat(found) * (count(inputs) / samples)
        return total

    return product


def _projected(tensors: list[Tensor], fan_ins: Sequence[FanIn | None]) -> list[Tensor]:
    """Apply P: center the tensors that have fan-in axes."""
    copies = [tensor.clone() for tensor in tensors]
    chosen = [(x, fan_in) for x, fan_in in zip(copies, fan_ins, strict=True) if fan_in]
    center_([x for x, _ in chosen], [fan_in for _, fan_in in chosen])
    return copies

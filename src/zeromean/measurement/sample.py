"""The numbers that ``monitor`` measures in one step, per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from zeromean.errors import warn
from zeromean.tables import Table, amount

# Share of vanished gradient entries above which a warning is due.
VANISHED_LIMIT = 0.01


@dataclass(frozen=True)
class LayerStatistics:
    r"""The numbers of one weight tensor in one step.

    g is the gradient as the optimizer receives it: accumulated, averaged over ranks, without a loss
    scale, clipped if the training clips before the step, and without weight decay. :math:`P g` is
    the centered gradient, whether or not this optimizer is centralized.

    Args:
        name: Full name of the parameter in the model.
        gradient_norm: :math:`\|g\|`.
        gradient_norm_centered: :math:`\|P g\|`.
        gradient_max: Largest :math:`|g_i|`.
        gradient_max_centered: Largest :math:`|(P g)_i|`.
        gradient_mean: Mean of all entries of g; for complex ones, of real and imaginary parts.
        gradient_mean_centered: Mean of all entries of P g: 0 up to rounding.
        removed: Share of the energy that centering removes, :math:`1 - \|P g\|^2 / \|g\|^2`,
            0 to 1.
        vanished: Share of the nonzero entries of g that are exactly 0 in P g, 0 to 1. It is near 0
            unless entries differ from their mean by less than rounding.
        weight_mean: Root mean square, over the weight vectors, of their means after the step.
        weight_mean_drift: Root mean square of the change of those means since the start.
        update_ratio: :math:`\|\Delta w\| / \|w\|`, with w before the step.
    """

    name: str
    gradient_norm: float
    gradient_norm_centered: float
    gradient_max: float
    gradient_max_centered: float
    gradient_mean: float
    gradient_mean_centered: float
    removed: float
    vanished: float
    weight_mean: float
    weight_mean_drift: float
    update_ratio: float


QUANTITIES = tuple(field.name for field in fields(LayerStatistics) if field.name != "name")


@dataclass(frozen=True, repr=False)
class Sample:
    """The numbers of one step; printing it gives a table.

    Args:
        step: Number of the step, from 0.
        optimizer: Class name of the optimizer.
        at: Place where it centers: "gradient", "update" or "backward"; None if it does not center,
            in which case the centered numbers show what centering would do.
        layers: Every layer that is centered, or would be, and has a gradient.
    """

    step: int
    optimizer: str
    at: str | None
    layers: tuple[LayerStatistics, ...]

    def scalars(self) -> dict[str, float]:
        """Return ``{"zeromean/<quantity>/<layer>": number}``, the form that loggers take."""
        return {
            f"zeromean/{quantity}/{layer.name}": getattr(layer, quantity)
            for quantity in QUANTITIES
            for layer in self.layers
        }

    def as_dict(self) -> dict[str, object]:
        """Return plain data: step, optimizer, at, and a list of layers."""
        return asdict(self)

    def table(self) -> Table:
        """Return the printed table: one row per layer."""
        header = ("layer", "|g|", "|Pg|", "max g", "max Pg", "mean g", "mean Pg", "removed",
                  "vanished", "mean w", "drift", "update/w")  # fmt: skip
        rows = [
            (layer.name, *(_cell(quantity, getattr(layer, quantity)) for quantity in QUANTITIES))
            for layer in self.layers
        ]
        return Table(header, rows)

    def __repr__(self) -> str:
        return f"Sample({self._title()}; {amount(len(self.layers), 'layer')})"

    def __str__(self) -> str:
        return f"{self._title()}\n{self.table()}"

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self.table().html()}"

    def _title(self) -> str:
        place = f"centered at {self.at}" if self.at else "not centralized: what centering would do"
        return f"step {self.step}, {self.optimizer}, {place}"


def warn_of_vanished(at: str | None, shares: Mapping[str, float]) -> bool:
    """Warn if too many gradient entries of a layer vanish; return whether they do.

    Args:
        at: Place of centering; the entries stay as they are unless gradients are centered.
        shares: Share of vanished entries for each layer.
    """
    vanished = {name: share for name, share in shares.items() if share > VANISHED_LIMIT}
    if at not in ("gradient", "backward") or not vanished:
        return False
    name = max(vanished, key=vanished.__getitem__)
    warn(
        f"Centering turns {vanished[name]:.0%} of the nonzero gradient entries of {name} into"
        " zeros, because they differ from their mean by less than rounding. Keep gradients in"
        " float32, or leave this layer out with layers=."
    )
    return True


def _cell(quantity: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1%}" if quantity in ("removed", "vanished") else f"{value:.2e}"


def share(part: float, whole: float) -> float:
    """Return part / whole: 0 for 0 / 0, and infinity if only the whole is 0."""
    if whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole

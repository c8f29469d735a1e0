"""What one look at a training found, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from zeromean.tables import Table


@dataclass(frozen=True)
class Layer:
    r"""The numbers of one weight tensor in one step.

    The gradient is as the optimizer finds it: accumulated, averaged over ranks, without a loss
    scale, clipped where the training clips before it steps; weight decay is not in it. With
    :math:`P g` for the centered gradient, whether or not this optimizer is centralized:

    Args:
        name: Of the parameter in the model.
        gradient_norm: :math:`\|g\|`.
        gradient_norm_centered: :math:`\|P g\|`.
        gradient_max: Largest :math:`|g_i|`.
        gradient_max_centered: Largest :math:`|(P g)_i|`.
        gradient_mean: Mean of all entries of g.
        gradient_mean_centered: Mean of all entries of P g: 0 but for rounding.
        removed: Share of the energy that centering takes away, :math:`1 - \|P g\|^2 / \|g\|^2`,
            0 to 1.
        weight_mean: Root mean square, over the weight vectors, of their means after the step.
        weight_mean_drift: Root mean square of what those means have moved by since the start.
        update_ratio: :math:`\|\Delta w\| / \|w\|`, of the step by the weights before it.
    """

    name: str
    gradient_norm: float
    gradient_norm_centered: float
    gradient_max: float
    gradient_max_centered: float
    gradient_mean: float
    gradient_mean_centered: float
    removed: float
    weight_mean: float
    weight_mean_drift: float
    update_ratio: float


QUANTITIES = tuple(field.name for field in fields(Layer) if field.name != "name")


@dataclass(frozen=True)
class Sample:
    """The numbers of one step; printing it gives a table.

    Args:
        step: Which step it was, from 0.
        optimizer: Its class.
        at: Where it centers: "gradient", "update" or "backward"; None if it does not, and the
            centered numbers tell what centering would do.
        layers: Every layer that is centered, or would be, and has a gradient.
    """

    step: int
    optimizer: str
    at: str | None
    layers: tuple[Layer, ...]

    def scalars(self) -> dict[str, float]:
        """``{"zeromean/<quantity>/<layer>": number}``, as loggers want it."""
        return {
            f"zeromean/{quantity}/{layer.name}": getattr(layer, quantity)
            for quantity in QUANTITIES
            for layer in self.layers
        }

    def as_dict(self) -> dict[str, object]:
        """Plain data: step, optimizer, at, and a list of layers."""
        return asdict(self)

    def __str__(self) -> str:
        means = f"centered at {self.at}" if self.at else "not centralized: what centering would do"
        head = ["layer", "|g|", "|Pg|", "max g", "max Pg", "mean g", "mean Pg"]
        head += ["removed", "mean w", "drift", "update/w"]
        rows = [
            [
                layer.name,
                *(
                    f"{value:.1%}" if quantity == "removed" else f"{value:.2e}"
                    for quantity in QUANTITIES
                    for value in [getattr(layer, quantity)]
                ),
            ]
            for layer in self.layers
        ]
        return f"step {self.step}, {self.optimizer}, {means}\n{Table(head, rows)}"

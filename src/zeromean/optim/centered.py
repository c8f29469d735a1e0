"""What all drop-in optimizers share: the plan, and what they accept."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from zeromean.centralization.centering import Centering
from zeromean.centralization.validate import refuse_model
from zeromean.errors import ZeromeanError
from zeromean.gc_options import GCOptions
from zeromean.kernels.step_spec import At
from zeromean.plan import Layers, Plan, check_option

OWN_KERNELS = "kernels of its own make every step"


class Centered(Optimizer):
    """An optimizer that centers inside its step; goes before torch's class among the bases.

    The plan is an attribute, not part of the param groups: a checkpoint holds what torch's would.
    """

    _at: At = "gradient"
    centering: Centering | None = None  # None: nothing is centered

    def _centralize(
        self, model: nn.Module | None, at: At, layers: Layers, embeddings: bool
    ) -> None:
        check_option("at", at, ("gradient", "update"))
        self._at = at
        self._plan_for(model, GCOptions(at, layers, embeddings)).warn_of_doubt()

    def _plan_for(self, model: nn.Module | None, options: GCOptions) -> Centering:
        refuse_model(self, model, options)
        self.centering = Centering(self, model, options)
        return self.centering

    @property
    def how(self) -> str | None:
        """The place and the options in one line, as of a Handle."""
        return None if self.centering is None else self.centering.how

    @property
    def plan(self) -> Plan:
        """Every parameter, and what is done with it."""
        return Plan(()) if self.centering is None else self.centering.plan

    def __getstate__(self) -> dict[str, Any]:
        own = {"_at": self._at, "centering": self.centering}
        return super().__getstate__() | own  # torch's keeps nothing but its own


def subjects(
    params: nn.Module | ParamsT, model: nn.Module | None
) -> tuple[ParamsT, nn.Module | None]:
    """What to step, and the model that tells the axes, of a drop-in's first argument and model."""
    if not isinstance(params, nn.Module):
        return params, model
    if model is not None:
        raise ZeromeanError(
            "a model as the first argument and model= beside it",
            "one model",
            "leave model= out, or pass its parameters first",
        )
    return params.parameters(), params


def number(value: float | Tensor) -> float | Tensor:
    """A rule's number as its kernel reads it: one on a GPU stays there, and nobody waits for it."""
    return value if isinstance(value, Tensor) and not value.is_cpu else float(value)


def refuse(optimizer: Optimizer, reason: str, **options: bool | None) -> None:
    """Raise if an option was given that the drop-in does not carry out."""
    for name, value in options.items():
        if value:
            kind = type(optimizer).__name__
            raise ZeromeanError(
                f"{kind}({name}=True)",
                f"{kind} without {name}: {reason}",
                f"leave {name} out, or centralize torch.optim.{kind}",
            )

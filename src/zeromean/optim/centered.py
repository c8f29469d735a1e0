"""The base of all drop-in optimizers: the plan, the accepted options and shared documentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from zeromean.centralization.centering import Centering
from zeromean.centralization.validate import refuse_model
from zeromean.errors import ZeromeanError
from zeromean.gc_options import GCOptions
from zeromean.kernels.step_spec import At
from zeromean.plan import Layers, Plan, check_option

OWN_KERNELS = "its own kernels make every step"

# Parts of the drop-ins' docstrings.
REFUSED_DOC = """\
        foreach, differentiable, fused: Refused, because its own kernels make every step.
"""
OPTIONS_DOC = """\
        model: Model whose layers define the fan-in axes; needed unless ``params`` is one. Without
            it the axes follow from shapes alone, and a warning says so.
        at: "gradient" (default) or "update".
        layers, embeddings: As in :func:`zeromean.centralize`.
"""
RAISES_DOC = """
    Raises:
        ZeromeanError: An option is not supported, or has an unknown value or no effect.
"""
VIA_TORCH_DOC = r"""``torch.optim.{name}`` with centering inside the step.

    torch's own function makes the step along centered copies of the gradients, with coupled decay
    inside the projection: :math:`P(g + \lambda w)`. With ``at="update"`` the whole change of the
    weights is projected instead.
"""


class Centered(Optimizer):
    """An optimizer that centers inside its step. Subclasses list it before torch's class.

    The plan is not part of the param groups, so checkpoints are torch's.
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
        """The place and the options in one line, as in :attr:`zeromean.Handle.how`."""
        return None if self.centering is None else self.centering.how

    @property
    def plan(self) -> Plan:
        """Every parameter, and whether it is centered now."""
        return Plan(()) if self.centering is None else self.centering.current_plan(self)

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self.centering is None else f"{text}\n{self.how}; {self.plan.total()}"

    def __getstate__(self) -> dict[str, Any]:
        own = {"_at": self._at, "centering": self.centering}
        return super().__getstate__() | own  # torch's keeps only its own attributes


def subjects(
    params: nn.Module | ParamsT, model: nn.Module | None
) -> tuple[ParamsT, nn.Module | None]:
    """Return the parameters to step and the model that defines the axes."""
    if not isinstance(params, nn.Module):
        return params, model
    if model is not None:
        raise ZeromeanError(
            "the first argument is a model, and model= is given too",
            "Leave model= out, or pass parameters first",
        )
    return params.parameters(), params


def refuse(optimizer: Optimizer, reason: str, **options: bool | None) -> None:
    """Raise if an option is set that the drop-in does not support."""
    for name, value in options.items():
        if value:
            kind = type(optimizer).__name__
            instead = f", or centralize torch.optim.{kind}" if hasattr(torch.optim, kind) else ""
            raise ZeromeanError(
                f"{kind} does not support {name}=True: {reason}", f"Leave {name} out{instead}"
            )

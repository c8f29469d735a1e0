"""Hugging Face Transformers: a callback that centralizes the Trainer's optimizer.

Needs the packages ``transformers`` and ``accelerate``.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from zeromean.centralization.centralize import Handle, attach
from zeromean.errors import ZeromeanError, needs_extra
from zeromean.gc_options import GCOptions, WeightDecay
from zeromean.plan import Layers, Scope

with needs_extra("transformers", "zeromean.transformers"):
    from transformers import (
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

__all__ = ["Centralize"]


def __dir__() -> list[str]:
    return sorted(__all__)


class Centralize(TrainerCallback):  # type: ignore[misc] # mypy skips transformers
    r"""Centralize the optimizer of a Hugging Face ``Trainer`` whenever it trains, resumed or not.

    :math:`P g = g - \operatorname{mean}(g)` at the place that ``at`` names: see
    :func:`zeromean.centralize`. The callback attaches when training begins, after the Trainer has
    created the optimizer and loaded its checkpoint, and detaches when training ends. The Trainer
    clips gradients first, as in the published code.

    Args:
        at, layers, embeddings, scope, weight_decay, project_state, fused: Options of
            :func:`zeromean.centralize`.

    Raises:
        ZeromeanError: An option has an unknown value or no effect; or, when training begins,
            :func:`zeromean.centralize` refuses the optimizer or the model.

    Example:
        >>> import zeromean.transformers
        >>> callback = zeromean.transformers.Centralize(at="update")
        >>> # Trainer(model, args, train_dataset=..., callbacks=[callback]).train()

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020.
    """

    def __init__(
        self,
        *,
        at: Literal["gradient", "update", "backward"] = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
        scope: Scope = "vector",
        weight_decay: Literal["auto"] | WeightDecay = "auto",
        project_state: bool = False,
        fused: bool | None = None,
    ) -> None:
        self.options = GCOptions(at, layers, embeddings, scope, weight_decay, project_state, fused)
        self.handle: Handle | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **others: Any,
    ) -> None:
        """Attach to the Trainer's optimizer."""
        if optimizer is None:
            raise ZeromeanError(
                "the Trainer passes no optimizer to its callbacks",
                "Use a Trainer that steps a torch optimizer itself, not DeepSpeed",
            )
        self._detach()  # the last training was interrupted
        self.handle = attach(optimizer, model, self.options)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Detach from the Trainer's optimizer."""
        self._detach()

    def _detach(self) -> None:
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

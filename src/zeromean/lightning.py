"""Lightning: a callback that centralizes the trainer's optimizers.

This module needs the package ``lightning``.
"""

from __future__ import annotations

from typing import Any, Literal

from zeromean.centralization.centralize import Handle, attach
from zeromean.errors import needs_extra
from zeromean.gc_options import GCOptions, WeightDecay
from zeromean.plan import Layers, Scope

with needs_extra("lightning", "zeromean.lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Centralize"]


def __dir__() -> list[str]:
    return sorted(__all__)


class Centralize(Callback):
    r"""Centralize every optimizer of a Lightning trainer in each ``fit``, resumed or not.

    :math:`P g = g - \operatorname{mean}(g)` at the place that ``at`` names: see
    :func:`zeromean.centralize`. The trainer clips gradients first, as in the published code.
    Checkpoints name the callback, so Lightning warns if a run is resumed without it. The optimizers
    stay centralized after ``fit``, until the next ``fit``.

    Args:
        at, layers, embeddings, scope, weight_decay, project_state, fused: Options of
            :func:`zeromean.centralize`, for all of the trainer's optimizers.

    Raises:
        ZeromeanError: An option has an unknown value or no effect; or, at the start of training,
            :func:`zeromean.centralize` refuses the optimizer or the module.

    Example:
        >>> import zeromean.lightning
        >>> callback = zeromean.lightning.Centralize(at="update")
        >>> # Trainer(callbacks=[callback]).fit(module)

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
        self.handles: list[Handle] = []

    @property
    def state_key(self) -> str:
        """The name of this callback in checkpoints."""
        return f"zeromean.Centralize({self.options.describe()})"

    def state_dict(self) -> dict[str, Any]:
        """Return a state that is not empty, because Lightning saves no callback without one."""
        return {"optimizers": len(self.handles)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizers of this ``fit``, which have loaded their states by now."""
        while self.handles:
            self.handles.pop().remove()
        # One by one: if an optimizer is refused, the next fit detaches from those before it.
        for optimizer in trainer.optimizers:
            self.handles.append(attach(optimizer, pl_module, self.options))

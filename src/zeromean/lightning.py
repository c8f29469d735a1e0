"""Lightning: a callback that centralizes the trainer's optimizers.

Needs the package ``lightning``.
"""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from zeromean.centralization.centralize import Handle, centralize
from zeromean.centralization.fingerprint import describe
from zeromean.centralization.optimizer_traits import WeightDecay
from zeromean.plan import Layers, Scope


class Centralize(Callback):
    r"""Centralize every optimizer of a Lightning trainer, for each ``fit``, resumed ones too.

    :math:`P g = g - \operatorname{mean}(g)` at the place that ``at`` names: see
    :func:`zeromean.centralize`. The trainer's own gradient clipping comes first, as published.
    Checkpoints name the callback, so that Lightning itself warns when a run is resumed without it.

    Args:
        at, layers, embeddings, scope, weight_decay, project_state: As in
            :func:`zeromean.centralize`, for all of the trainer's optimizers alike.

    Raises:
        ZeromeanError: At the start of training, whatever :func:`zeromean.centralize` refuses.

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
    ) -> None:
        self._options: dict[str, Any] = {
            "at": at,
            "layers": layers,
            "embeddings": embeddings,
            "scope": scope,
            "weight_decay": weight_decay,
            "project_state": project_state,
        }
        self.handles: list[Handle] = []

    @property
    def state_key(self) -> str:
        """What the checkpoint calls this callback."""
        chosen = {name: self._options[name] for name in ("at", "layers", "embeddings", "scope")}
        return f"zeromean.Centralize({describe(**chosen)})"

    def state_dict(self) -> dict[str, Any]:
        """Not empty, so that Lightning notes the callback in checkpoints."""
        return {"optimizers": len(self.handles)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizers of this run, which have loaded their states by now."""
        for handle in self.handles:
            handle.remove()
        self.handles = [
            centralize(optimizer, pl_module, **self._options) for optimizer in trainer.optimizers
        ]

"""Adagrad."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.kernels.step_spec import At
from zeromean.optim.centered import refuse, subjects
from zeromean.optim.via_torch import Copying
from zeromean.plan import Layers


class Adagrad(Copying, torch.optim.Adagrad):
    r"""``torch.optim.Adagrad`` with centering inside the step.

    torch's own function makes the step along centered copies of the gradients, with coupled decay
    inside: :math:`P(g + \lambda w)`; or, with ``at="update"``, the whole change of the weights is
    projected.

    Args:
        params: A model; or parameters or param groups as in torch.
        lr, lr_decay, weight_decay, initial_accumulator_value,
            eps, foreach, maximize: As in ``torch.optim.Adagrad``.
        differentiable, fused: Refused: centering leaves no graph behind, and fused steps
            take the gradients as a scaler left them.
        model: The model that tells the fan-in axes, where ``params`` is none. Without it only
            shapes are known, and a warning says so.
        at: "gradient" (default) or "update".
        layers, embeddings: As in :func:`zeromean.centralize`.

    Raises:
        ZeromeanError: An option is not carried out, or has an unknown value or no effect.

    Example:
        >>> import torch
        >>> from zeromean.optim import Adagrad
        >>> optimizer = Adagrad(torch.nn.Linear(3, 2), lr=0.01)

    Reference:
        Duchi et al., Adaptive Subgradient Methods, JMLR 2011.
    """

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        model: nn.Module | None = None,
        at: At = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
    ) -> None:
        refuse(self, "centering leaves no graph behind", differentiable=differentiable)
        refuse(self, "a fused step takes gradients as a scaler left them", fused=fused)
        params, model = subjects(params, model)
        super().__init__(
            params,
            lr,
            lr_decay,
            weight_decay,
            initial_accumulator_value,
            eps,
            foreach,
            maximize=maximize,
        )
        self._centralize(model, at, layers, embeddings)

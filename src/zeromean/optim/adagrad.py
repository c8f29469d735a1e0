"""Adagrad."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.kernels.step_spec import At
from zeromean.optim.centered import OPTIONS_DOC, RAISES_DOC, VIA_TORCH_DOC, refuse, subjects
from zeromean.optim.via_torch import ViaTorch
from zeromean.plan import Layers


class Adagrad(ViaTorch, torch.optim.Adagrad):
    __doc__ = (
        VIA_TORCH_DOC.format(name="Adagrad")
        + """
    Args:
        params: A model; or parameters or param groups as in torch.
        lr, lr_decay, weight_decay, initial_accumulator_value, eps, foreach, maximize: As in
            ``torch.optim.Adagrad``.
        differentiable, fused: Refused, because centering leaves no graph, and fused steps read
            gradients that a scaler has not unscaled.
"""
        + OPTIONS_DOC
        + RAISES_DOC
        + """
    Example:
        >>> import torch
        >>> from zeromean.optim import Adagrad
        >>> optimizer = Adagrad(torch.nn.Linear(3, 2), lr=0.01)

    Reference:
        Duchi et al., Adaptive Subgradient Methods, JMLR 2011.
    """
    )

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
        refuse(self, "a fused step reads gradients that a scaler has not unscaled", fused=fused)
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

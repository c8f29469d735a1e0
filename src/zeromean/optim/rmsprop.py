"""RMSprop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.kernels.step_spec import At
from zeromean.optim.centered import OPTIONS_DOC, RAISES_DOC, VIA_TORCH_DOC, refuse, subjects
from zeromean.optim.via_torch import ViaTorch
from zeromean.plan import Layers


class RMSprop(ViaTorch, torch.optim.RMSprop):
    __doc__ = (
        VIA_TORCH_DOC.format(name="RMSprop")
        + """
    Args:
        params: A model; or parameters or param groups as in torch.
        lr, alpha, eps, weight_decay, momentum, centered, capturable, foreach, maximize: As in
            ``torch.optim.RMSprop``.
        differentiable: Refused, because centering leaves no graph.
"""
        + OPTIONS_DOC
        + RAISES_DOC
        + """
    Example:
        >>> import torch
        >>> from zeromean.optim import RMSprop
        >>> optimizer = RMSprop(torch.nn.Linear(3, 2), lr=0.01)

    Reference:
        Hinton, Neural Networks for Machine Learning, lecture 6e, 2012.
    """
    )

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        model: nn.Module | None = None,
        at: At = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
    ) -> None:
        refuse(self, "centering leaves no graph behind", differentiable=differentiable)
        params, model = subjects(params, model)
        super().__init__(
            params,
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
        )
        self._centralize(model, at, layers, embeddings)

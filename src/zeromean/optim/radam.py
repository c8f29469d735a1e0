"""RAdam."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.kernels.step_spec import At
from zeromean.optim.centered import OPTIONS_DOC, RAISES_DOC, VIA_TORCH_DOC, refuse, subjects
from zeromean.optim.via_torch import ViaTorch
from zeromean.plan import Layers


class RAdam(ViaTorch, torch.optim.RAdam):
    __doc__ = (
        VIA_TORCH_DOC.format(name="RAdam")
        + """
    Args:
        params: A model; or parameters or param groups as in torch.
        lr, betas, eps, weight_decay, decoupled_weight_decay, foreach, maximize, capturable: As in
            ``torch.optim.RAdam``.
        differentiable: Refused, because centering leaves no graph.
"""
        + OPTIONS_DOC
        + RAISES_DOC
        + """
    Example:
        >>> import torch
        >>> from zeromean.optim import RAdam
        >>> optimizer = RAdam(torch.nn.Linear(3, 2), lr=0.01)

    Reference:
        Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020.
    """
    )

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
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
            betas,
            eps,
            weight_decay,
            decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
        )
        self._centralize(model, at, layers, embeddings)

"""RMSprop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.kernels.step_spec import At
from zeromean.optim.centered import refuse, subjects
from zeromean.optim.via_torch import Copying
from zeromean.plan import Layers


class RMSprop(Copying, torch.optim.RMSprop):
    r"""``torch.optim.RMSprop`` with centering inside the step.

    torch's own function makes the step along centered copies of the gradients, with coupled decay
    inside: :math:`P(g + \lambda w)`; or, with ``at="update"``, the whole change of the weights is
    projected.

    Args:
        params: A model; or parameters or param groups as in torch.
        lr, alpha, eps, weight_decay, momentum,
            centered, capturable, foreach, maximize: As in ``torch.optim.RMSprop``.
        differentiable: Refused: centering leaves no graph behind.
        model: The model that tells the fan-in axes, where ``params`` is none. Without it only
            shapes are known, and a warning says so.
        at: "gradient" (default) or "update".
        layers, embeddings: As in :func:`zeromean.centralize`.

    Raises:
        ZeromeanError: An option is not carried out, or has an unknown value or no effect.

    Example:
        >>> import torch
        >>> from zeromean.optim import RMSprop
        >>> optimizer = RMSprop(torch.nn.Linear(3, 2), lr=0.01)

    Reference:
        Hinton, Neural Networks for Machine Learning, lecture 6e, 2012.
    """

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

"""SGD and SGDW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.centralization.fused_step import sgd_rule
from zeromean.kernels import SGDRule
from zeromean.kernels.step_spec import At
from zeromean.optim.centered import (
    OPTIONS_DOC,
    OWN_KERNELS,
    RAISES_DOC,
    REFUSED_DOC,
    refuse,
    subjects,
)
from zeromean.optim.fused import Fused
from zeromean.plan import Layers


class SGD(Fused, torch.optim.SGD):
    __doc__ = (
        r"""``torch.optim.SGD`` with centering inside the step.

    .. math::
        d = P(g + \lambda w), \quad b \leftarrow \mu b + (1 - \tau) d, \quad
        w \leftarrow w - \eta b

    For SGD, ``at="gradient"`` and ``at="update"`` agree.

    Args:
        params: A model; or parameters or param groups as in torch.
        lr, momentum, dampening, weight_decay, nesterov, maximize: As in ``torch.optim.SGD``.
"""
        + REFUSED_DOC
        + OPTIONS_DOC
        + RAISES_DOC
        + """
    Example:
        >>> import torch
        >>> from zeromean.optim import SGD
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = SGD(model, lr=0.1, momentum=0.9)
        >>> before = model.weight.mean(1)
        >>> model(torch.tensor([[1.0, 2.0, 6.0]])).sum().backward()
        >>> optimizer.step()
        >>> torch.allclose(model.weight.mean(1), before)
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Algorithm 1.
    """
    )

    @staticmethod
    def _rule(group: dict[str, Any]) -> SGDRule:
        return sgd_rule(group)

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        model: nn.Module | None = None,
        at: At = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
    ) -> None:
        refuse(self, OWN_KERNELS, foreach=foreach, differentiable=differentiable, fused=fused)
        params, model = subjects(params, model)
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize)
        self._centralize(model, at, layers, embeddings)


class SGDW(SGD):
    r"""SGD with decoupled weight decay and centering inside the step.

    .. math::
        w \leftarrow (1 - \eta \lambda) w, \quad b \leftarrow \mu b + (1 - \tau) P(g), \quad
        w \leftarrow w - \eta b

    With ``at="gradient"`` only the decay shrinks the mean of a weight vector.

    Args:
        params, lr, momentum, dampening, nesterov, maximize, foreach, differentiable, fused: As in
            :class:`SGD`.
        weight_decay: Decoupled weight decay :math:`\lambda` (default 0).
        model, at, layers, embeddings: As in :class:`SGD`.

    Raises:
        ZeromeanError: As :class:`SGD`.

    Example:
        >>> import torch
        >>> from zeromean.optim import SGDW
        >>> optimizer = SGDW(torch.nn.Linear(3, 2), lr=0.1, momentum=0.9, weight_decay=0.01)

    Reference:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, Algorithm 1.
    """

    @staticmethod
    def _rule(group: dict[str, Any]) -> SGDRule:
        return sgd_rule(group, decoupled=True)

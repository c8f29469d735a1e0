"""SGD with decoupled weight decay, which torch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd


class SGDW(torch.optim.SGD):
    r"""``torch.optim.SGD`` with decoupled weight decay.

    .. math::
        w \leftarrow (1 - \eta \lambda) w, \quad b \leftarrow \mu b + g, \quad
        w \leftarrow w - \eta b

    It does not center; ``zeromean.optim.SGDW`` does.

    Args:
        params, lr, momentum, weight_decay, nesterov: The arguments of ``torch.optim.SGD``.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = SGDW([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()
        >>> round(weight.item(), 6)  # 0.95 * 2 - 0.1
        1.8

    Reference:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, Algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = []
        gradients: list[Tensor] = []
        buffers: list[Tensor | None] = []
        self._init_group(group, weights, gradients, buffers)  # type: ignore[no-untyped-call]
        if not weights:
            return
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        sgd(
            weights,
            gradients,
            buffers,
            weight_decay=0.0,
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["nesterov"],
            maximize=False,
        )
        if group["momentum"]:
            for weight, buffer in zip(weights, buffers, strict=True):
                self.state[weight]["momentum_buffer"] = cast(Tensor, buffer)

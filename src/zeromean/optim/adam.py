"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean.centralization.fused_step import adam_rule
from zeromean.kernels import AdamRule, backend
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

_CAPTURABLE = """\
        capturable: Whether a CUDA graph may capture the step (default False); needs
            Triton's kernels.
"""


class _AnyAdam(Fused, torch.optim.Adam):
    """The parts that Adam and AdamW share."""

    @staticmethod
    def _rule(group: dict[str, Any]) -> AdamRule:
        return adam_rule(group)

    def _refuse_capturable(self, capturable: bool) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        if any(backend(p.device) != "triton" for p in parameters):
            refuse(self, "only Triton's kernels can be captured", capturable=capturable)

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        """Create state as torch does, with step counters where the kernels read them."""
        found = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        for p in group["params"]:
            state = self.state.get(p)
            if state and backend(p.device) == "triton":
                state["step"] = state["step"].to(p.device)
        return found


class Adam(_AnyAdam):
    __doc__ = (
        r"""``torch.optim.Adam`` with centering inside the step.

    .. math::
        d = P(g + \lambda w), \quad m \leftarrow \beta_1 m + (1 - \beta_1) d, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) d^2, \quad
        w \leftarrow w - \eta \hat m / (\sqrt{\hat v} + \epsilon)

    With ``at="update"`` the whole change of w is centered instead of d.

    Args:
        params: A model; or parameters or param groups as in torch.
        lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: As in
            ``torch.optim.Adam``.
"""
        + _CAPTURABLE
        + REFUSED_DOC
        + OPTIONS_DOC
        + RAISES_DOC
        + """
    Example:
        >>> import torch
        >>> from zeromean.optim import Adam
        >>> optimizer = Adam(torch.nn.Linear(3, 2), lr=1e-3, at="update")

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Algorithm 2.
    """
    )

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        model: nn.Module | None = None,
        at: At = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
    ) -> None:
        refuse(self, OWN_KERNELS, foreach=foreach, differentiable=differentiable, fused=fused)
        params, model = subjects(params, model)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._refuse_capturable(capturable)
        self._centralize(model, at, layers, embeddings)


class AdamW(_AnyAdam, torch.optim.AdamW):
    __doc__ = (
        r"""``torch.optim.AdamW`` with centering inside the step.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) P(g), \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) P(g)^2, \quad
        w \leftarrow (1 - \eta \lambda) w - \eta \hat m / (\sqrt{\hat v} + \epsilon)

    With ``at="update"`` the whole change of w, decay included, is centered instead of g.

    Args:
        params: A model; or parameters or param groups as in torch.
        lr, betas, eps, weight_decay, amsgrad, maximize: As in ``torch.optim.AdamW``.
"""
        + _CAPTURABLE
        + REFUSED_DOC
        + OPTIONS_DOC
        + RAISES_DOC
        + """
    Example:
        >>> import torch
        >>> from zeromean.optim import AdamW
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = AdamW(model, lr=1e-3, at="update")
        >>> before = model.weight.mean(1)
        >>> model(torch.tensor([[1.0, 2.0, 6.0]])).sum().backward()
        >>> optimizer.step()
        >>> torch.allclose(model.weight.mean(1), before)
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Algorithm 2.
    """
    )

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        model: nn.Module | None = None,
        at: At = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
    ) -> None:
        refuse(self, OWN_KERNELS, foreach=foreach, differentiable=differentiable, fused=fused)
        params, model = subjects(params, model)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
        )
        self._refuse_capturable(capturable)
        self._centralize(model, at, layers, embeddings)

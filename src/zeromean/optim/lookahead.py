"""Lookahead around any optimizer, and Ranger, which is Lookahead around centered RAdam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from zeromean.eager import eager
from zeromean.errors import ZeromeanError
from zeromean.kernels.step_spec import At
from zeromean.optim.radam import RAdam
from zeromean.plan import Layers


class Lookahead(Optimizer):
    r"""Average an optimizer's weights with slow weights every few steps.

    .. math::
        \phi \leftarrow \phi + \alpha (\theta - \phi), \quad \theta \leftarrow \phi
        \quad \text{every } k \text{ steps}

    Lookahead shares the optimizer's param groups, so schedulers and ``zero_grad`` act on both. It
    does not center; the inner optimizer does, and slow weights keep the means that fast ones keep,
    up to rounding.

    Args:
        optimizer: Any optimizer, including drop-ins and centralized ones. Step the Lookahead
            instead of it.
        k: Number of fast steps per slow step (default 5).
        alpha: Size of a slow step, from 0 to 1 (default 0.5).

    Raises:
        ZeromeanError: ``k`` or ``alpha`` is out of range, or ``optimizer`` is not an optimizer.

    Example:
        >>> import torch
        >>> from zeromean.optim import AdamW, Lookahead
        >>> optimizer = Lookahead(AdamW(torch.nn.Linear(3, 2)), k=5)

    Reference:
        Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, NeurIPS 2019, Algorithm 1.
    """

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ZeromeanError(
                f"Lookahead needs a torch.optim.Optimizer, not a {type(optimizer).__name__}",
                "Call Lookahead(AdamW(model))",
            )
        if not (isinstance(k, int) and k >= 1) or not 0 <= alpha <= 1:
            raise ZeromeanError(
                f"k={k!r} must be an integer of at least 1, and alpha={alpha!r} from 0 to 1",
                "Use the defaults, k=5 and alpha=0.5",
            )
        self.optimizer: Optimizer | None = None  # None while the base class sets up its groups
        super().__init__(optimizer.param_groups, {})
        self.optimizer = optimizer
        self.defaults = optimizer.defaults  # schedulers read them
        self.k, self.alpha = k, alpha

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's param groups, which it replaces when it loads a state dict."""
        return self._first_groups if self.optimizer is None else self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if self.optimizer is None:
            self._first_groups = groups
        else:
            self.optimizer.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group to the inner optimizer."""
        if self.optimizer is None:
            super().add_param_group(param_group)
        else:
            self.optimizer.add_param_group(param_group)

    @eager
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a fast step, and a slow one after every k.

        Args:
            closure: Function that evaluates the model and returns the loss (default None).

        Returns:
            The loss that the closure returned, else None.
        """
        assert self.optimizer is not None
        # A group may list a parameter twice.
        parameters = dict.fromkeys(p for group in self.param_groups for p in group["params"])
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {"slow": parameter.clone(), "step": torch.tensor(0.0)}
        with torch.enable_grad():
            loss = self.optimizer.step(closure)
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] += 1
            if state["step"] % self.k == 0:
                slow: Tensor = state["slow"]
                parameter.copy_(slow.lerp_(parameter, self.alpha))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the slow weights and step counters, and the inner ``optimizer``'s own dict."""
        assert self.optimizer is not None
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a dict that :meth:`state_dict` returned.

        Raises:
            ZeromeanError: The dict comes from an optimizer without Lookahead.
        """
        assert self.optimizer is not None
        if "optimizer" not in state_dict:
            raise ZeromeanError(
                f"the state dict holds {', '.join(state_dict)}, but no inner optimizer of a"
                f" {type(self).__name__}",
                "Load it into .optimizer; the slow weights then start from the current ones",
            )
        own = {key: value for key, value in state_dict.items() if key != "optimizer"}
        super().load_state_dict(own)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def __getstate__(self) -> dict[str, Any]:
        own = {"optimizer": self.optimizer, "k": self.k, "alpha": self.alpha}
        return super().__getstate__() | own


class Ranger(Lookahead):
    """Lookahead around RAdam with centering.

    Args:
        params: A model; or parameters or param groups as in torch.
        lr, betas, eps, weight_decay, decoupled_weight_decay: As in :class:`RAdam`, with other
            defaults of betas and eps.
        k, alpha: As in :class:`Lookahead`, with another default of k.
        model, at, layers, embeddings: As in :class:`RAdam`.

    Raises:
        ZeromeanError: As :class:`Lookahead` and :class:`RAdam`.

    Example:
        >>> import torch
        >>> from zeromean.optim import Ranger
        >>> optimizer = Ranger(torch.nn.Linear(3, 2), lr=1e-3)

    Reference:
        Wright, Ranger - a synergistic optimizer, 2019. The RAdam here is torch's.
    """

    def __init__(
        self,
        params: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        k: int = 6,
        alpha: float = 0.5,
        model: nn.Module | None = None,
        at: At = "gradient",
        layers: Layers = "all",
        embeddings: bool = False,
    ) -> None:
        inner = RAdam(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            decoupled_weight_decay,
            model=model,
            at=at,
            layers=layers,
            embeddings=embeddings,
        )
        super().__init__(inner, k, alpha)

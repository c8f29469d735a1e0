"""The names and keywords of the published code, for programs written for it.

It knew shapes only: dimensions 1.. of every parameter with two or more, "conv" meaning four or
more. These classes keep that rule, without a warning; new programs pass their model to
:mod:`zeromean.optim`. Elsewhere torch's semantics hold, also where the published code differs:

- AdamW's decay is ``lr * weight_decay``; the published one scaled it by the bias correction.
- A fan-in of 1 is left alone; the published code froze it.

Reference:
    Yong et al., Gradient Centralization, ECCV 2020, and its published code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean import optim
from zeromean.errors import ZeromeanError
from zeromean.kernels.step_spec import At
from zeromean.optim.centered import Centered
from zeromean.plan import Layers


class _Published(Centered):
    """Centers by shape alone and says no word of it."""

    _use_gc = True
    _conv_only = False
    _acts: At = "gradient"

    def _centralize(
        self, model: nn.Module | None, at: At, layers: Layers, embeddings: bool
    ) -> None:
        if (model, at, layers, embeddings) != (None, "gradient", "all", False):
            raise ZeromeanError(
                f"a model, at, layers or embeddings for compat.{type(self).__name__}",
                "what the published class took: parameters and its own keywords",
                "take the class of zeromean.optim",
            )
        self._at = self._acts
        if self._use_gc:
            self._plan_for(None, "conv" if self._conv_only else "all", False)


class SGD_GC(_Published, optim.SGD):
    """SGD, every layer."""


class SGD_GCC(SGD_GC):
    """SGD, convolutions."""

    _conv_only = True


class SGDW_GC(_Published, optim.SGDW):
    """SGD with decoupled decay, every layer."""


class SGDW_GCC(SGDW_GC):
    """SGD with decoupled decay, convolutions."""

    _conv_only = True


class Adam_GC(_Published, optim.Adam):
    """Adam, every layer."""


class Adam_GCC(Adam_GC):
    """Adam, convolutions."""

    _conv_only = True


class Adam_GC2(Adam_GC):
    """Adam, every layer, the whole update."""

    _acts = "update"


class Adam_GCC2(Adam_GCC):
    """Adam, convolutions, the whole update."""

    _acts = "update"


class AdamW_GC(_Published, optim.AdamW):
    """AdamW, every layer."""


class AdamW_GCC(AdamW_GC):
    """AdamW, convolutions."""

    _conv_only = True


class AdamW_GC2(AdamW_GC):
    """AdamW, every layer, the whole update."""

    _acts = "update"


class AdamW_GCC2(AdamW_GCC):
    """AdamW, convolutions, the whole update."""

    _acts = "update"


class Adagrad_GC(_Published, optim.Adagrad):
    """Adagrad, every layer."""


class Adagrad_GCC(Adagrad_GC):
    """Adagrad, convolutions."""

    _conv_only = True


class SGD(_Published, optim.SGD):
    """SGD with the published keywords.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov: As in ``torch.optim.SGD``.
        use_gc: Whether anything is centered (default False).
        gc_conv_only: Whether convolutions alone are (default False).

    Example:
        >>> import torch
        >>> from zeromean import compat
        >>> optimizer = compat.SGD(torch.nn.Linear(3, 2).parameters(), lr=0.1, use_gc=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        use_gc: bool = False,
        gc_conv_only: bool = False,
    ) -> None:
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)


class SGDW(_Published, optim.SGDW):
    """SGD with decoupled decay and the published keywords.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov: As in ``zeromean.optim.SGDW``.
        use_gc, gc_conv_only: As in :class:`SGD`.

    Example:
        >>> import torch
        >>> from zeromean import compat
        >>> optimizer = compat.SGDW(torch.nn.Linear(3, 2).parameters(), lr=0.1, use_gc=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        use_gc: bool = False,
        gc_conv_only: bool = False,
    ) -> None:
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)


class Adam(_Published, optim.Adam):
    """Adam with the published keywords.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad: As in ``torch.optim.Adam``.
        use_gc, gc_conv_only: As in :class:`SGD`.
        gc_loc: Whether the gradient is centered; else the whole update is (default False).

    Example:
        >>> import torch
        >>> from zeromean import compat
        >>> optimizer = compat.Adam(torch.nn.Linear(3, 2).parameters(), use_gc=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        use_gc: bool = False,
        gc_conv_only: bool = False,
        gc_loc: bool = False,
    ) -> None:
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        self._acts = "gradient" if gc_loc else "update"
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class AdamW(_Published, optim.AdamW):
    """AdamW with the published keywords.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad: As in ``torch.optim.AdamW``.
        use_gc, gc_conv_only, gc_loc: As in :class:`Adam`.

    Example:
        >>> import torch
        >>> from zeromean import compat
        >>> optimizer = compat.AdamW(torch.nn.Linear(3, 2).parameters(), use_gc=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        use_gc: bool = False,
        gc_conv_only: bool = False,
        gc_loc: bool = False,
    ) -> None:
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        self._acts = "gradient" if gc_loc else "update"
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

"""The names and keywords of the published code, for programs that were written for it.

The published code knew shapes only: it centered dimensions 1.. of every parameter with two or more,
and "conv" meant four or more. These classes keep that rule, without a warning. New programs should
pass their model to :mod:`zeromean.optim`. Otherwise torch's semantics hold, even if the published
code differs:

- AdamW's decay is ``lr * weight_decay``; the published code scaled it by the bias correction.
- A fan-in of 1 is left alone; the published code froze it.

Reference:
    Yong et al., Gradient Centralization, ECCV 2020, and its published code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zeromean import optim
from zeromean.errors import ZeromeanError
from zeromean.gc_options import GCOptions
from zeromean.kernels.step_spec import At
from zeromean.optim.centered import Centered
from zeromean.plan import Layers
from zeromean.projection import center

_GC = ("GC", "GCC")  # every layer, convolutions
_VARIANTS = {
    optim.SGD: _GC,
    optim.SGDW: _GC,
    optim.Adagrad: _GC,
    optim.Adam: (*_GC, "GC2", "GCC2"),  # 2: the whole update
    optim.AdamW: (*_GC, "GC2", "GCC2"),
}

__all__ = [  # noqa: PLE0604
    "SGD",
    "SGDW",
    "Adam",
    "AdamW",
    "Ranger",
    "centralized_gradient",
    *(f"{base.__name__}_{suffix}" for base, suffixes in _VARIANTS.items() for suffix in suffixes),
]


def __dir__() -> list[str]:
    return sorted(__all__)


def centralized_gradient(x: Tensor, use_gc: bool = True, gc_conv_only: bool = False) -> Tensor:
    r"""Center a gradient in place over dimensions 1.., as the published function does.

    :math:`x \leftarrow x - \operatorname{mean}(x)` over dimensions 1..

    Args:
        x: Gradient of any shape; it is changed.
        use_gc: Whether anything is centered (default True).
        gc_conv_only: Whether only tensors of four or more dimensions are (default False).

    Returns:
        The same tensor.

    Example:
        >>> import torch
        >>> from zeromean.compat import centralized_gradient
        >>> centralized_gradient(torch.tensor([[1.0, 2.0, 6.0]]))
        tensor([[-2., -1.,  3.]])
    """
    axes = tuple(range(1, x.ndim))
    if use_gc and x.ndim > (3 if gc_conv_only else 1) and x[0].numel() > 1:
        x.copy_(center(x, axes))
    return x


def _check_effect(use_gc: bool, **options: bool) -> None:
    for name, given in options.items():
        if given and not use_gc:
            raise ZeromeanError(
                f"{name} has no effect with use_gc=False", f"Pass use_gc=True, or leave {name} out"
            )


class _Published(Centered):
    """A drop-in that centers by shape alone, without a warning."""

    _use_gc = True
    _conv_only = False
    _acts: At = "gradient"

    def _centralize(
        self, model: nn.Module | None, at: At, layers: Layers, embeddings: bool
    ) -> None:
        if (model, at, layers, embeddings) != (None, "gradient", "all", False):
            raise ZeromeanError(
                f"compat.{type(self).__name__} takes parameters and the published keywords, not a"
                " model, at, layers or embeddings",
                "Use the class of zeromean.optim",
            )
        self._at = self._acts
        if self._use_gc:
            self._plan_for(None, GCOptions(self._acts, "conv" if self._conv_only else "all"))


def _variant(base: type[Centered], suffix: str) -> type[Centered]:
    convolutions, update = suffix.startswith("GCC"), suffix.endswith("2")
    what = "convolutions" if convolutions else "every layer"
    return type(
        f"{base.__name__}_{suffix}",
        (_Published, base),
        {
            "__module__": __name__,
            "__doc__": f"{base.__name__} that centers {'the whole update of ' * update}{what}.",
            "_conv_only": convolutions,
            "_acts": "update" if update else "gradient",
        },
    )


globals().update(
    {
        kind.__name__: kind
        for base, suffixes in _VARIANTS.items()
        for kind in (_variant(base, suffix) for suffix in suffixes)
    }
)


class SGD(_Published, optim.SGD):
    """SGD with the published keywords.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov: As in ``torch.optim.SGD``.
        use_gc: Whether anything is centered (default False).
        gc_conv_only: Whether only convolutions are centered (default False).

    Raises:
        ZeromeanError: ``gc_conv_only`` is set, but ``use_gc`` is not.

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
        _check_effect(use_gc, gc_conv_only=gc_conv_only)
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)


class SGDW(SGD, optim.SGDW):
    """SGD with decoupled decay and the published keywords.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov: As in
            :class:`zeromean.optim.SGDW`.
        use_gc, gc_conv_only: As in :class:`SGD`.

    Example:
        >>> import torch
        >>> from zeromean import compat
        >>> optimizer = compat.SGDW(torch.nn.Linear(3, 2).parameters(), lr=0.1, use_gc=True)
    """


class Adam(_Published, optim.Adam):
    """Adam with the published keywords.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad: As in ``torch.optim.Adam``.
        use_gc, gc_conv_only: As in :class:`SGD`.
        gc_loc: Whether the gradient is centered instead of the whole update (default False).

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
        _check_effect(use_gc, gc_conv_only=gc_conv_only, gc_loc=gc_loc)
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
        _check_effect(use_gc, gc_conv_only=gc_conv_only, gc_loc=gc_loc)
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        self._acts = "gradient" if gc_loc else "update"
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class _RAdam(_Published, optim.RAdam):
    def __init__(
        self, params: ParamsT, use_gc: bool, conv_only: bool, acts: At, **keywords: object
    ):
        self._use_gc, self._conv_only, self._acts = use_gc, conv_only, acts
        super().__init__(params, **keywords)  # type: ignore[arg-type]


class Ranger(optim.Lookahead):
    """Ranger (RAdam with Lookahead and Gradient Centralization) with the published keywords.

    RAdam is torch's, and its decay is ``lr * weight_decay``, applied to the weights.

    Args:
        params, lr, betas, eps, weight_decay: As in ``torch.optim.RAdam``.
        alpha, k: As in :class:`zeromean.optim.Lookahead`.
        N_sma_threshhold: Length of the moving average from which RAdam rectifies. Only 5, the
            value in torch, is supported.
        use_gc: As in :class:`SGD`, but True by default.
        gc_conv_only: As in :class:`SGD`.
        gc_loc: Whether the gradient is centered instead of the whole update (default True).

    Raises:
        ZeromeanError: ``N_sma_threshhold`` is not 5, or an option has no effect with
            ``use_gc=False``.

    Example:
        >>> import torch
        >>> from zeromean import compat
        >>> optimizer = compat.Ranger(torch.nn.Linear(3, 2).parameters())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        alpha: float = 0.5,
        k: int = 6,
        N_sma_threshhold: int = 5,  # noqa: N803  # the published spelling
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0,
        use_gc: bool = True,
        gc_conv_only: bool = False,
        gc_loc: bool = True,
    ) -> None:
        if N_sma_threshhold != 5:
            raise ZeromeanError(
                f"N_sma_threshhold is {N_sma_threshhold!r}; torch's RAdam rectifies above 5",
                "Leave N_sma_threshhold out",
            )
        _check_effect(use_gc, gc_conv_only=gc_conv_only, gc_loc=not gc_loc)
        acts: At = "gradient" if gc_loc else "update"
        inner = _RAdam(
            params, use_gc, gc_conv_only, acts,
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=True,
        )  # fmt: skip
        super().__init__(inner, k, alpha)

"""The names and keywords of the published code, for programs that were written for it.

The published code decided by shapes alone: it centered every parameter of two or more dimensions
over all dimensions but the first, and took every parameter of four or more for a convolution. These
classes keep that rule, without a warning. New programs should use :mod:`zeromean.optim` and pass
their model. The steps differ from those of the published code in two ways:

- AdamW decays weights by ``lr * weight_decay``, as in torch; the published code also multiplied the
  decay by the bias correction.
- Weights of fan-in 1 are not centered: centering makes their gradients 0, which froze them in the
  published code.

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

_GC = ("GC", "GCC")  # GC: every layer; GCC: convolutions only
_VARIANTS = {
    optim.SGD: _GC,
    optim.SGDW: _GC,
    optim.Adagrad: _GC,
    optim.Adam: (*_GC, "GC2", "GCC2"),  # 2: centers the whole update
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
    r"""Center a gradient in place over all dimensions but the first, as the authors do.

    :math:`x \leftarrow x - \operatorname{mean}(x)`, with one mean per index of dimension 0. Slices
    of one entry are not changed.

    Args:
        x: Gradient of any shape, which is modified.
        use_gc: Whether the gradient is centered at all (default True).
        gc_conv_only: Whether only tensors of four or more dimensions are centered (default False).

    Returns:
        The same tensor.

    Example:
        >>> import torch
        >>> from zeromean.compat import centralized_gradient
        >>> centralized_gradient(torch.tensor([[1.0, 2.0, 6.0]]))
        tensor([[-2., -1.,  3.]])
    """
    axes = tuple(range(1, x.ndim))
    if use_gc and x.ndim > (3 if gc_conv_only else 1) and x.shape[1:].numel() > 1:
        x.copy_(center(x, axes))
    return x


def _check_effect(use_gc: bool, **options: bool) -> None:
    for name, given in options.items():
        if given and not use_gc:
            raise ZeromeanError(
                f"{name} has no effect with use_gc=False", f"Pass use_gc=True, or leave {name} out"
            )


class _Published(Centered):
    """A drop-in optimizer that centers by shape alone, without a warning."""

    _use_gc = True
    _conv_only = False
    _acts: At = "gradient"

    def _centralize(
        self, model: nn.Module | None, at: At, layers: Layers, embeddings: bool
    ) -> None:
        if (model, at, layers, embeddings) != (None, "gradient", "all", False):
            raise ZeromeanError(
                "the classes of zeromean.compat take parameters and the published keywords, not a"
                " model, at, layers or embeddings",
                "Use the class of the same kind in zeromean.optim",
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
        use_gc: Whether gradients or updates are centered at all (default False).
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
    """SGD with decoupled weight decay and the published keywords.

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
    """The RAdam inside :class:`Ranger`."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        use_gc: bool,
        gc_conv_only: bool,
        gc_loc: bool,
    ) -> None:
        self._use_gc, self._conv_only = use_gc, gc_conv_only
        self._acts = "gradient" if gc_loc else "update"
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)


class Ranger(optim.Lookahead):
    """Ranger (RAdam with Lookahead and Gradient Centralization) with the published keywords.

    RAdam is torch's, with decoupled weight decay: it subtracts ``lr * weight_decay`` times the
    weights.

    Args:
        params, lr, betas, eps, weight_decay: As in ``torch.optim.RAdam``.
        alpha, k: As in :class:`zeromean.optim.Lookahead`.
        N_sma_threshhold: Length of the moving average above which RAdam rectifies its step. Only 5,
            the value in torch, is supported.
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
        inner = _RAdam(params, lr, betas, eps, weight_decay, use_gc, gc_conv_only, gc_loc)
        super().__init__(inner, k, alpha)

"""The native kernels that bring weight vectors to a length, forwards and backwards."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.kernels import native
from zeromean.kernels.backends import backend
from zeromean.kernels.layout import layout_of, same_layout
from zeromean.projection import one_each


class _Normal(ctypes.Structure):
    """``struct normal`` of normalized.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("outer", "m1", "inner", "m2", "centers", "std")),
        *((name, ctypes.c_double) for name in ("eps", "scale")),
        *((name, ctypes.c_void_p) for name in ("v", "gain", "offset", "mean", "norm", "w")),
        *((name, ctypes.c_void_p) for name in ("grad_w", "grad_v", "grad_gain")),
    ]


@lru_cache(maxsize=1)
def _function() -> Any:
    library = native.library()
    assert library is not None
    library.zeromean_normalize.argtypes = [
        ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(_Normal), ctypes.c_int64,
    ]  # fmt: skip
    library.zeromean_normalize.restype = None
    return library.zeromean_normalize


def serves(v: Tensor, gain: Tensor | float, offset: Tensor | None, fan_in: FanIn) -> bool:
    """Whether the library can normalize this tensor."""
    return (
        native.plain(v)
        and backend() == "native"
        and layout_of(tuple(v.shape), v.stride(), fan_in) is not None
        and all(
            native.plain(x) and x.dtype == v.dtype and x.is_contiguous()
            for x in (gain, offset)
            if isinstance(x, Tensor)
        )
    )


def fits(grad: Tensor, v: Tensor) -> bool:
    """Whether the library can take this gradient of the weight back to ``v``, as it did ``v``."""
    return native.plain(grad) and native.plain(v) and grad.dtype == v.dtype


def forward(
    v: Tensor,
    gain: Tensor | float,
    offset: Tensor | None,
    centers: bool,
    eps: float | None,
    fan_in: FanIn,
) -> tuple[Tensor, Tensor, Tensor]:
    """The weight, and the mean and the divisor of each vector, shaped to broadcast."""
    w = torch.empty_like(v)
    # Named, because a default device may be another one than v's.
    shape = [2, *one_each(v.shape, fan_in)]
    mean, norm = torch.empty(shape, dtype=torch.float64, device=v.device)
    n = _describe(v, gain, mean, norm, centers, eps, fan_in)
    n.offset = None if offset is None else offset.data_ptr()
    n.w = w.data_ptr()
    _function()(native.TYPES[v.dtype], False, n, torch.get_num_threads())
    return w, mean, norm


def backward(
    grad: Tensor,
    v: Tensor,
    gain: Tensor | float,
    mean: Tensor,
    norm: Tensor,
    centers: bool,
    eps: float | None,
    fan_in: FanIn,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """What reaches v and the gains of the weight's gradient, as far as it is wanted."""
    if not same_layout(grad.stride(), v.stride(), tuple(v.shape)):
        grad = torch.empty_like(v).copy_(grad)
    grad_v = torch.empty_like(v) if wanted[0] else None
    grad_gain = torch.empty_like(gain) if wanted[1] and isinstance(gain, Tensor) else None
    n = _describe(v, gain, mean, norm, centers, eps, fan_in)
    n.grad_w = grad.data_ptr()
    n.grad_v = None if grad_v is None else grad_v.data_ptr()
    n.grad_gain = None if grad_gain is None else grad_gain.data_ptr()
    _function()(native.TYPES[v.dtype], True, n, torch.get_num_threads())
    return grad_v, grad_gain


def _describe(
    v: Tensor,
    gain: Tensor | float,
    mean: Tensor,
    norm: Tensor,
    centers: bool,
    eps: float | None,
    fan_in: FanIn,
) -> _Normal:
    layout = layout_of(tuple(v.shape), v.stride(), fan_in)
    assert layout is not None
    return _Normal(
        *layout,
        centers,
        eps is not None,
        eps or 0.0,
        1.0 if isinstance(gain, Tensor) else gain,
        v.data_ptr(),
        gain.data_ptr() if isinstance(gain, Tensor) else None,
        None,
        mean.data_ptr(),
        norm.data_ptr(),
    )

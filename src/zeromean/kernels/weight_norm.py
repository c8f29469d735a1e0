"""The native kernels that bring weight vectors to a length, forwards and backwards."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.kernels import cpu_backend
from zeromean.kernels.backends import backend
from zeromean.kernels.layout import layout_of, same_layout

# ``struct normal`` of normalized.h: sizes and switches, eps and scale, addresses (0 for nothing).
_NORMAL = Struct("@6q2d9P")


@lru_cache(maxsize=1)
def _function() -> Any:
    library = cpu_backend.library()
    assert library is not None
    library.zeromean_normalize.argtypes = [
        ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64,
    ]  # fmt: skip
    library.zeromean_normalize.restype = None
    return library.zeromean_normalize


class Normalize:
    """Normalizes one proxy, again and again; what can be known of it is looked up once.

    A layer calls this between large products, which leave nothing of the interpreter in cache: what
    is touched on the way then costs ten times what it does in a loop, so little is.

    Args:
        v, gain, offset: The first of the proxies, gains and offsets; all served.
        centers, eps: What the formula is.
        fan_in: The axes of a weight vector.
    """

    def __init__(
        self,
        v: Tensor,
        gain: Tensor | float,
        offset: Tensor | None,
        centers: bool,
        eps: float | None,
        fan_in: FanIn,
    ) -> None:
        layout = layout_of(v.shape, v.stride(), fan_in)
        assert layout is not None
        self._found = _describe(v), _describe(gain), _describe(offset)
        self._type = cpu_backend.TYPES[v.dtype]
        self._vectors = layout.outer * layout.inner
        scale = 1.0 if isinstance(gain, Tensor) else gain
        self._told = (*layout, centers, eps is not None, eps or 0.0, scale)

    def is_valid(self, v: Tensor, gain: Tensor | float, offset: Tensor | None) -> bool:
        """Whether these lie in memory as the first ones did."""
        return (_describe(v), _describe(gain), _describe(offset)) == self._found

    def is_valid_backward(self, grad: Tensor, v: Tensor) -> bool:
        """Whether this gradient of the weight can be taken back to ``v``, as it is now."""
        return cpu_backend.plain(grad) and grad.dtype == v.dtype and _describe(v) == self._found[0]

    def forward(
        self, v: Tensor, gain: Tensor | float, offset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The weight, and what the way back needs: all vectors' means, then their divisors."""
        w = torch.empty_like(v)
        # The device is named, because a default one may be another than v's.
        kept = torch.empty(2 * self._vectors, dtype=torch.float64, device=v.device)
        self._run(False, v, gain, offset, kept, w, None, None, None)
        return w, kept

    def backward(
        self,
        grad: Tensor,
        v: Tensor,
        gain: Tensor | float,
        kept: Tensor,
        wanted: Sequence[bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """What reaches v and the gains of the weight's gradient, as far as it is wanted."""
        if not same_layout(grad.stride(), v.stride(), v.shape):
            grad = torch.empty_like(v).copy_(grad)
        grad_v = torch.empty_like(v) if wanted[0] else None
        grad_gain = torch.empty_like(gain) if wanted[1] and isinstance(gain, Tensor) else None
        self._run(True, v, gain, None, kept, None, grad, grad_v, grad_gain)
        return grad_v, grad_gain

    def _run(
        self,
        back: bool,
        v: Tensor,
        gain: Tensor | float,
        offset: Tensor | None,
        kept: Tensor,
        *others: Tensor | None,
    ) -> None:
        """Run the library; the others are its last addresses, in their order."""
        means = kept.data_ptr()
        normal = _NORMAL.pack(
            *self._told,
            v.data_ptr(),
            gain.data_ptr() if isinstance(gain, Tensor) else 0,
            0 if offset is None else offset.data_ptr(),
            means,
            means + 8 * self._vectors,
            *[0 if x is None else x.data_ptr() for x in others],
        )
        _function()(self._type, back, normal, torch.get_num_threads())


def prepare(
    v: Tensor,
    gain: Tensor | float,
    offset: Tensor | None,
    centers: bool,
    eps: float | None,
    fan_in: FanIn,
) -> Normalize | None:
    """The normalization of such tensors by the library, or None where it does not serve them."""
    served = (
        cpu_backend.plain(v)
        and backend() == "native"
        and layout_of(v.shape, v.stride(), fan_in) is not None
        and all(
            cpu_backend.plain(x) and x.dtype == v.dtype and x.is_contiguous()
            for x in (gain, offset)
            if isinstance(x, Tensor)
        )
    )
    return Normalize(v, gain, offset, centers, eps, fan_in) if served else None


def _describe(x: Tensor | float | None) -> object:
    """How a tensor lies in memory; a number is itself."""
    if not isinstance(x, Tensor):
        return x
    return type(x), x.dtype, x.is_cpu, x.layout, x.shape, x.stride(), x.is_neg()

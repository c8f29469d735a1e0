"""Call the native kernels that normalize weight vectors, and those of the backward pass."""

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
from zeromean.kernels.checks import check_storage
from zeromean.kernels.layout import Layout, layout_of, same_layout
from zeromean.kernels.shared_library import library

# ``struct normal`` of normalized.h: sizes and switches, eps and scale, addresses (0 for none).
_NORMAL = Struct("@6q2d9P")


@lru_cache(maxsize=1)
def _function() -> Any:
    found = library()
    assert found is not None
    found.zeromean_normalize.argtypes = [
        ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64,
    ]  # fmt: skip
    found.zeromean_normalize.restype = None
    return found.zeromean_normalize


class Normalize:
    """Normalize one proxy at every forward pass.

    A layer calls this between large matrix products, when the interpreter's data is no longer in
    cache, so it looks up as little as possible per call.

    Args:
        v, gain, offset: Proxy, gains and offsets of the first call, which the library serves.
        centers, eps: Options of the formula.
        layout: Layout of the proxy.
    """

    def __init__(
        self,
        v: Tensor,
        gain: Tensor | float,
        offset: Tensor | None,
        centers: bool,
        eps: float | None,
        layout: Layout,
    ) -> None:
        self._found = _describe(v), _describe(gain), _describe(offset)
        self._type = cpu_backend.TYPES[v.dtype]
        self._vectors = layout.outer * layout.inner
        scale = 1.0 if isinstance(gain, Tensor) else gain
        # The arithmetic is float32, or float64; a smaller eps would let it divide by zero.
        least = torch.finfo(torch.promote_types(v.dtype, torch.float32)).tiny
        self._constants = (*layout, centers, eps is not None, max(eps or 0.0, least), scale)

    def is_valid(self, v: Tensor, gain: Tensor | float, offset: Tensor | None) -> bool:
        """Return whether these tensors have the types and layouts of the first ones."""
        return (_describe(v), _describe(gain), _describe(offset)) == self._found

    def is_valid_backward(
        self, grad: Tensor, v: Tensor, gain: Tensor | float, kept: Tensor
    ) -> bool:
        """Return whether the library can propagate a gradient of the weight to these tensors."""
        return (
            cpu_backend.is_served(grad)
            and (grad.dtype, grad.shape) == (v.dtype, v.shape)
            and (_describe(v), _describe(gain)) == self._found[:2]
            and cpu_backend.is_served(kept)
            and (kept.dtype, kept.shape) == (torch.float64, (2 * self._vectors,))
            and kept.is_contiguous()
        )

    def forward(
        self, v: Tensor, gain: Tensor | float, offset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the weight, and the numbers that backward needs: all means, then all divisors."""
        w = torch.empty_like(v)
        # Name the device, because the default device may differ from that of v.
        kept = torch.empty(2 * self._vectors, dtype=torch.float64, device=v.device)
        self._run(False, v, gain, offset, kept, w, None, None, None)
        return w, kept

    def backward(
        self,
        grad: Tensor,
        v: Tensor,
        gain: Tensor | float,
        kept: Tensor,
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of v and of the gains, each if it is needed."""
        check_storage(grad, kept)
        if not same_layout(grad.stride(), v.stride(), v.shape):
            grad = torch.empty_like(v).copy_(grad)
        grad_v = torch.empty_like(v) if needed[0] else None
        grad_gain = torch.empty_like(gain) if needed[1] and isinstance(gain, Tensor) else None
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
        """Run the library; ``others`` are its last addresses, in their order."""
        means = kept.data_ptr()
        normal = _NORMAL.pack(
            *self._constants,
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
    """Set up the normalization of these tensors, and of others like them, by the library.

    Returns:
        The normalization, or None if the library does not serve these tensors.

    Raises:
        ZeromeanError: The storage of a tensor is smaller than its shape and strides require.
    """
    numbers = [x for x in (gain, offset) if isinstance(x, Tensor)]
    check_storage(v, *numbers)
    if not cpu_backend.is_served(v) or backend() != "native":
        return None
    layout = layout_of(v.shape, v.stride(), fan_in)
    if layout is None:
        return None
    served = all(
        cpu_backend.is_served(x)
        and (x.dtype, x.numel()) == (v.dtype, layout.outer * layout.inner)
        and x.is_contiguous()
        for x in numbers
    )
    return Normalize(v, gain, offset, centers, eps, layout) if served else None


def _describe(x: Tensor | float | None) -> object:
    """Describe the type and memory of a tensor; return a number or None as it is."""
    if not isinstance(x, Tensor):
        return x
    size = x.untyped_storage().nbytes()
    return type(x), x.dtype, x.is_cpu, x.layout, x.shape, x.stride(), x.is_neg(), size

"""Compare tensors with those that a table of addresses was built for."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.kernels.shared_library import library

# ``struct torch`` of tensors.h: functions, then places in a Python object. The functions of torch
# are declared stable, in torch/csrc/inductor/aoti_torch/c/shim.h.
_TORCH = Struct("@10P2q")
_FUNCTIONS = (
    "layout", "dtype", "device_type", "device_index", "dim", "sizes", "strides", "storage_size",
    "data_ptr",
)  # fmt: skip
_WORDS = 7  # words of a description before its sizes and strides


class Memory:
    """The places of tensors in memory when a table of addresses was built.

    Types, devices, shapes, strides and the sizes of storages are compared. Sizes matter because a
    storage that is resized twice may be at its old address again, but smaller.

    Args:
        tensors: The tensors, dense and of torch's own class.
        fixed: Whether the table holds the tensors' addresses. If so, every use must pass the same
            tensors at the same addresses, and they are kept alive; otherwise each use passes its
            own addresses.
    """

    def __init__(self, tensors: Sequence[Tensor], fixed: bool) -> None:
        self._fixed, self._count = fixed, len(tensors)
        self._alive = [*tensors] if fixed else []  # no other tensor takes their addresses
        # A lazily negated view is the imaginary part of complex entries. Its strides show that,
        # unless it has one entry.
        self._single = [n for n, x in enumerate(tensors) if x.numel() == 1 and not fixed]
        self._native = _native()
        if self._native is None:
            self._described = _describe(tensors, fixed)
            return
        self._known = array("q", bytes(8 * sum(_WORDS + 2 * x.ndim for x in tensors)))
        described = self._native.zeromean_describe([*tensors], self._count, _start(self._known))
        assert described

    def addresses(self, tensors: Sequence[Tensor]) -> array[int] | None:
        """Return the address of each tensor, or None if they differ from the first ones."""
        if len(tensors) != self._count:
            return None
        if self._native is None:
            same = _describe(tensors, self._fixed) == self._described
            return addresses(tensors) if same else None
        found = array("q", bytes(8 * self._count))
        listed = tensors if type(tensors) is list else [*tensors]
        same = self._native.zeromean_agree(
            listed, self._count, _start(self._known), self._fixed, _start(found)
        )
        return found if same and not any(tensors[n].is_neg() for n in self._single) else None


def addresses(tensors: Sequence[Tensor]) -> array[int]:
    """Return the address of each tensor's first entry."""
    return array("q", [*map(Tensor.data_ptr, tensors)])


def has_repeats(found: Iterable[int]) -> bool:
    """Return whether two tensors are at the same address; empty ones, which are at 0, are not."""
    places = [address for address in found if address]
    return len({*places}) < len(places)


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """Return the version of each tensor, by which autograd detects that it changed.

    Inference tensors, which autograd does not use, have none.
    """
    return [0 if x.is_inference() else x._version for x in tensors]


def changed_since(before: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors whose version has changed."""
    now = versions(tensors)
    return [x for x, old, new in zip(tensors, before, now, strict=True) if old != new]


def _describe(tensors: Sequence[Tensor], fixed: bool) -> list[tuple[object, ...]]:
    return [_words(x, fixed) if x.layout is torch.strided else () for x in tensors]


def _words(x: Tensor, fixed: bool) -> tuple[object, ...]:
    size, address = x.untyped_storage().nbytes(), x.data_ptr() if fixed else 0
    return type(x), x.dtype, x.device, x.shape, x.stride(), x.is_neg(), size, address


def _start(words: array[int]) -> int:
    return words.buffer_info()[0]


@lru_cache(maxsize=1)
def _native() -> Any | None:
    """Return the library, set up to compare tensors; None if this torch or Python prevents it."""
    built = library()
    samples = (torch.zeros(2, 3, device="cpu"), nn.Parameter(torch.zeros(1, device="cpu")))
    places = {(_place(x, id(type(x))), _place(x, x._cdata)) for x in samples}
    (class_at, tensor_at), *others = places
    if built is None or others or class_at is None or tensor_at is None:
        return None
    try:
        of_torch: Any = ctypes.CDLL(torch._C.__file__)
        functions = [getattr(of_torch, f"aoti_torch_get_{name}") for name in _FUNCTIONS]
    except (AttributeError, OSError):
        return None
    pointers = [ctypes.pythonapi.PyList_GetItem, *functions]
    found: Any = ctypes.PyDLL(None, handle=built._handle)
    found.zeromean_use_torch.argtypes = [ctypes.c_char_p]
    found.zeromean_use_torch.restype = None
    found.zeromean_use_torch(
        _TORCH.pack(
            *(ctypes.cast(pointer, ctypes.c_void_p).value for pointer in pointers),
            class_at,
            tensor_at,
        )
    )
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    found.zeromean_describe.argtypes = [ctypes.py_object, word, pointer]
    found.zeromean_agree.argtypes = [ctypes.py_object, word, pointer, word, pointer]
    for function in (found.zeromean_describe, found.zeromean_agree):
        function.restype = word
    return found


def _place(x: Tensor, word: int) -> int | None:
    """Return the offset of an address in the Python object of a tensor; None if it is not there."""
    size = ctypes.sizeof(ctypes.c_size_t)
    count = torch._C.TensorBase.__basicsize__ // size
    words = [*(ctypes.c_size_t * count).from_address(id(x))]
    return size * words.index(word) if word in words else None

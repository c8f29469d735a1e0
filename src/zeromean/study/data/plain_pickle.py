"""Read pickles of plain data without executing anything that they name."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


def loads(content: bytes) -> object:
    """Return the content of a pickle of dicts, lists, tuples, strings, numbers and byte arrays.

    NumPy arrays become :class:`ByteArray`; strings of a Python 2 pickle become bytes.

    Raises:
        pickle.UnpicklingError: The content is not a pickle, or contains anything else.

    Example:
        >>> loads(pickle.dumps({"numbers": [1, 2]}))
        {'numbers': [1, 2]}
        >>> loads(pickle.dumps(len))
        Traceback (most recent call last):
        _pickle.UnpicklingError: it names 'builtins.len'
    """
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    # Broken or hostile pickles raise errors of nearly any type.
    except Exception as error:
        raise pickle.UnpicklingError(f"{type(error).__name__} while reading") from error


class ByteArray:
    """Stand-in for a NumPy array during unpickling.

    Attributes:
        array: The NumPy array, of dtype uint8.
    """

    array: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran_order, data = state
        if not (isinstance(kind, _ByteType) and isinstance(data, bytes)):
            raise pickle.UnpicklingError("an array of other values than bytes")
        if fortran_order is not False:
            raise pickle.UnpicklingError("an array in Fortran order")
        if not all(type(length) is int for length in shape) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array of another size than its {len(data)} bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _ByteType:
    """Stand-in for the dtype of an array, which must be uint8."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        if name not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of other values than bytes")

    def __setstate__(self, state: Any) -> None:
        """Ignore the byte order and other properties that do not matter for bytes."""


# The Python implementation: the one in C allocates as much memory as the pickle declares.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            # A new function each time, because a pickle can set its attributes.
            return lambda *_arguments: ByteArray()
        if (module, name) == ("numpy", "dtype"):
            return _ByteType
        if (module, name) == ("numpy", "ndarray"):
            return None  # an argument of _reconstruct, which ignores it
        raise pickle.UnpicklingError(f"it names {f'{module}.{name}'[:60]!r}")

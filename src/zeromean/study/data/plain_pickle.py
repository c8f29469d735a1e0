"""Read pickles of plain data without executing anything that they name."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


def loads(content: bytes) -> object:
    """Return the dicts, lists, tuples, texts, numbers and NumPy arrays of bytes in a pickle.

    Arrays are returned as :class:`ByteArray`, the texts of a Python 2 pickle as bytes.

    Raises:
        pickle.UnpicklingError: The content is not a pickle or names anything else.

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
        array: Unsigned bytes.
    """

    array: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran_order, data = state
        if not (isinstance(kind, _ByteType) and isinstance(data, bytes) and fortran_order is False):
            raise pickle.UnpicklingError("an array of other values than bytes")
        if not all(type(length) is int for length in shape) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array of another size than its {len(data)} bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _ByteType:
    """Stand-in for the element type of an array, which must be unsigned bytes."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        if name not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of other values than bytes")

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and the like, which do not apply to bytes."""


# The version in Python, because the one in C allocates as much memory as a pickle asks for.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return lambda *_arguments: ByteArray()  # a new one, which no pickle can modify
        if (module, name) == ("numpy", "dtype"):
            return _ByteType
        if (module, name) == ("numpy", "ndarray"):
            return None  # an argument of _reconstruct, which ignores it
        raise pickle.UnpicklingError(f"it names {f'{module}.{name}'[:60]!r}")

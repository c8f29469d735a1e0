"""Pickles of plain data, read without running anything that they name."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


def loads(content: bytes) -> object:
    """What the pickle holds: dicts, lists, tuples, texts, numbers, and NumPy arrays of bytes.

    Arrays come as :class:`ByteArray`. A pickle of Python 2 has bytes for texts.

    Raises:
        pickle.UnpicklingError: It is no pickle, or names anything else.

    Example:
        >>> loads(pickle.dumps({"numbers": [1, 2]}))
        {'numbers': [1, 2]}
        >>> loads(pickle.dumps(len))
        Traceback (most recent call last):
        _pickle.UnpicklingError: it names 'builtins.len'
    """
    try:
        return _Plain(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    # A broken or hostile pickle makes its reader raise nearly anything.
    except Exception as error:
        raise pickle.UnpicklingError(f"{type(error).__name__} while it is read") from error


class ByteArray:
    """Stands for a NumPy array while a pickle is read.

    Attributes:
        array: Unsigned bytes.
    """

    array: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, by_columns, data = state
        if not (isinstance(kind, _ByteType) and isinstance(data, bytes) and by_columns is False):
            raise pickle.UnpicklingError("an array of other things than bytes")
        if not all(type(length) is int for length in shape) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array of another size than its {len(data)} bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _ByteType:
    """Stands for the type of an array's numbers, which is unsigned bytes."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        if name not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of other things than bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, of which a byte has none."""


# The one written in Python: that in C gives a pickle as much memory as it asks for.
class _Plain(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return lambda *_arguments: ByteArray()  # a fresh one, which no pickle can change
        if (module, name) == ("numpy", "dtype"):
            return _ByteType
        if (module, name) == ("numpy", "ndarray"):
            return None  # an argument of _reconstruct, which asks for no other
        raise pickle.UnpicklingError(f"it names {f'{module}.{name}'[:60]!r}")

"""Street View House Numbers as published: two MATLAB files of 32x32 images."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset

FILES = ("train_32x32.mat", "test_32x32.mat")
SOURCE = "http://ufldl.stanford.edu/housenumbers/"
HEADER_BYTES = 128
# Element types of MATLAB's format 5.
MATRIX, COMPRESSED = 14, 15
NUMBERS = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
NUMERIC_CLASSES = range(6, 16)
UINT8_CLASS = 9


def read_svhn(folder: Path) -> Dataset:
    """Read ``train_32x32.mat`` and ``test_32x32.mat``; the files store the digit 0 as 10.

    Raises:
        ZeromeanError: A file is missing or not in the published format.
    """
    train, test = (_read(folder / name) for name in FILES)
    return Dataset(
        name=f"svhn:{folder}",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        classes=tuple(map(str, range(10))),
        split="the data set's own test set",
    )


def _read(path: Path) -> tuple[Tensor, Tensor]:
    if not path.is_file():
        raise ZeromeanError(
            f"{path} does not exist",
            f"Put {' and '.join(FILES)} (format 2, cropped digits) from {SOURCE} into"
            f" {path.parent}",
        )
    try:
        arrays = dict(_matrices(path.read_bytes()))
    except (OSError, MemoryError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise ZeromeanError(
            f"{path} cannot be read as a MATLAB file of version 5"
            f" ({type(error).__name__}: {error})",
            f"Download it again from {SOURCE}",
        ) from error
    images, labels = arrays.get("X"), arrays.get("y")
    if (
        images is None
        or labels is None
        or images.dtype != np.uint8
        or images.shape[:3] != (32, 32, 3)
        or images.ndim > 4
        or labels.size != images[0, 0, 0].size
        or not labels.size
        or not np.isin(labels, range(1, 11)).all()
    ):
        raise ZeromeanError(
            f"{path} does not hold bytes X of shape (32, 32, 3, N) and whole numbers y of shape"
            " (N, 1) from 1 to 10",
            "Check that it is the right file",
        )
    pixels = np.ascontiguousarray(images.reshape(32, 32, 3, -1).transpose(3, 2, 0, 1))
    return torch.from_numpy(pixels), torch.from_numpy(labels.reshape(-1).astype(np.int64) % 10)


def _matrices(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Iterate over names and values of the numeric arrays in a MATLAB file of version 5.

    SciPy's reader is not used because malformed files crash it.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER_BYTES - 2 : HEADER_BYTES])
    if order is None:
        raise ValueError("it has another header")
    for kind, data in _elements(content[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            yield from (
                _matrix(inner, order)
                for inner_kind, inner in _elements(zlib.decompress(data), order)
                if inner_kind == MATRIX
            )
        elif kind == MATRIX:
            yield _matrix(data, order)


def _matrix(data: bytes, order: str) -> tuple[str, np.ndarray]:
    """Return name and value of an array; the value is empty if it is not numeric."""
    elements = _elements(data, order)
    (_, flags), (_, shape), (_, name), (stored, values) = (
        next(elements, (0, b"")) for _ in range(4)
    )
    text = name.decode("ascii", "replace")
    kind = struct.unpack(f"{order}I", flags[:4])[0] & 0xFF
    if kind not in NUMERIC_CLASSES or stored not in NUMBERS:
        return text, np.empty(0)
    numbers = np.frombuffer(values, np.dtype(f"{order}{NUMBERS[stored]}"))
    lengths = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if min(lengths, default=-1) < 0 or math.prod(lengths) != len(numbers):
        raise ValueError(f"{text!r} has another size than its header says")
    array = numbers.reshape(lengths, order="F")
    # MATLAB stores numbers in the smallest type that holds them.
    return text, array if kind == UINT8_CLASS else array.astype(np.float64)


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Iterate over types and contents of data elements, which are padded to 8 bytes."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack(f"{order}II", data[place : place + 8])
        start = place + 8
        if kind >> 16:  # A small element has its content in the tag.
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + size > len(data):
            raise ValueError("it ends early")
        yield kind, data[start : start + size]
        place = start + size
        if kind != COMPRESSED:
            place += -place % 8

"""The IDX format of MNIST and Fashion-MNIST: four files in a folder, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset, index_labels
from zeromean.tables import amount

# The third byte of a file is the element type (8: unsigned byte), the fourth is the number of
# dimensions.
UNSIGNED_BYTE = 8
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"


def read_idx(folder: Path) -> Dataset:
    """Read ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, with or without ``.gz``.

    Names with a dot, such as ``train-images.idx3-ubyte``, are also found. Labels are any bytes.

    Raises:
        ZeromeanError: A file is missing or not of this format.
    """
    if not folder.is_dir():
        raise ZeromeanError(
            f"idx:{folder} is not a folder",
            f"Put train-images-idx3-ubyte and the three other files there, as in {SOURCE}",
        )
    train_images, train_labels, test_images, test_labels = (
        _read_array(_find(folder, part, kind, dimensions), dimensions)
        for part in ("train", "t10k")
        for kind, dimensions in (("images", 3), ("labels", 1))
    )
    classes, labels = index_labels(train_labels.long(), test_labels.long())
    return Dataset(
        name=f"idx:{folder}",
        train_images=train_images[:, None],
        train_labels=labels[0],
        test_images=test_images[:, None],
        test_labels=labels[1],
        classes=classes,
        split="the data set's own test set (t10k)",
    )


def _find(folder: Path, part: str, kind: str, dimensions: int) -> Path:
    names = [f"{part}-{kind}{sign}idx{dimensions}-ubyte" for sign in "-."]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise ZeromeanError(
        f"idx:{folder} has no {names[0]} and no {names[0]}.gz", "Check the path, or add the file"
    )


def _read_array(path: Path, dimensions: int) -> Tensor:
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header)
            if start[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)) or len(start) < header:
                raise ZeromeanError(
                    f"{path} starts with bytes {start[:4].hex(' ')}; an IDX file of unsigned bytes"
                    f" with {amount(dimensions, 'dimension')} starts with"
                    f" 00 00 08 {dimensions:02x}",
                    "Check that it is the right file",
                )
            shape = struct.unpack(f">{dimensions}I", start[4:])
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, MemoryError, OverflowError, zlib.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ZeromeanError(f"{path} cannot be read ({reason})", "Download it again") from error
    if 0 in shape:
        raise ZeromeanError(
            f"{path} is empty: its header says {' x '.join(map(str, shape))} bytes",
            "Check that it is the right file",
        )
    if len(data) != math.prod(shape):
        size = f"{len(data)} bytes" if len(data) < math.prod(shape) else "more bytes"
        raise ZeromeanError(
            f"{path} has {size} of data, but its header says {math.prod(shape)}",
            "Download the file again",
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())

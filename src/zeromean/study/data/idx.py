"""The IDX format of MNIST and Fashion-MNIST: four files in a folder, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset

# The third byte names the element type (8: unsigned byte), the fourth the number of dimensions.
UNSIGNED_BYTE = 8


def read_idx(folder: Path) -> Dataset:
    """Reads ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, each as it is or with ``.gz``.

    Raises:
        ZeromeanError: A file is missing or is not of the stated format.
    """
    if not folder.is_dir():
        raise ZeromeanError(
            f"idx:{folder}, which is not a folder",
            "a folder with train-images-idx3-ubyte and its three companions",
            "check the path; Fashion-MNIST comes with Debian's dataset-fashion-mnist, or from"
            " https://github.com/zalandoresearch/fashion-mnist",
        )
    arrays = {
        (part, kind): _read_array(_find(folder, f"{part}-{kind}-ubyte"), dimensions)
        for part in ("train", "t10k")
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1))
    }
    train_labels, test_labels = (
        torch.from_numpy(arrays[part, "labels-idx1"].astype(np.int64)) for part in ("train", "t10k")
    )
    train_images, test_images = (
        torch.from_numpy(arrays[part, "images-idx3"].copy())[:, None] for part in ("train", "t10k")
    )
    highest = max(
        (int(labels.max()) for labels in (train_labels, test_labels) if len(labels)), default=-1
    )
    return Dataset(
        name=f"idx:{folder}",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(str(label) for label in range(highest + 1)),
        split="the data set's own test set (t10k)",
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ZeromeanError(
        f"idx:{folder} without {name}",
        f"{name} or {name}.gz in that folder",
        "check the path, or add the file",
    )


def _read_array(path: Path, dimensions: int) -> np.ndarray:
    wanted = f"an IDX file of unsigned bytes with {dimensions} dimension(s)"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ZeromeanError(
            f"unreadable {path} ({error})", wanted, "fetch the file anew"
        ) from error
    header = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)) or len(data) < header:
        raise ZeromeanError(
            f"{path} starting with bytes {data[:4].hex(' ')}",
            wanted,
            "check that it is the right file",
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise ZeromeanError(
            f"{path} with {len(data) - header} bytes of data",
            f"{math.prod(shape)} bytes, as its header says",
            "fetch the file anew",
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)

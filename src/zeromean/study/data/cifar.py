"""CIFAR-10 and CIFAR-100 as published for Python: pickles of rows of 3,072 bytes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data import plain_pickle
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.plain_pickle import ByteArray

SHAPE = (3, 32, 32)
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class _Layout(NamedTuple):
    """Files of one of the two sets, and the keys in them."""

    archive: str
    train: tuple[str, ...]
    test: str
    names: str
    labels_key: str
    names_key: str


LAYOUTS = (
    _Layout(
        "cifar-10-python.tar.gz",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    _Layout(
        "cifar-100-python.tar.gz",
        ("train",),
        "test",
        "meta",
        "fine_labels",
        "fine_label_names",
    ),
)


def read_cifar(folder: Path) -> Dataset:
    """Reads the folder ``cifar-10-batches-py`` or ``cifar-100-python``, with the fine labels.

    The pickles are read without running anything: see ``plain_pickle``.

    Raises:
        ZeromeanError: A file is missing, or is not of the published form.
    """
    layout = next((one for one in LAYOUTS if (folder / one.names).is_file()), None)
    if layout is None:
        raise _missing(
            folder,
            " or ".join(one.names for one in LAYOUTS),
            " or ".join(one.archive for one in LAYOUTS),
        )
    for file in (*layout.train, layout.test):
        if not (folder / file).is_file():
            raise _missing(folder, file, layout.archive)
    names = _names(folder / layout.names, layout.names_key)
    parts = [_read(folder / name, layout.labels_key, len(names)) for name in layout.train]
    test_images, test_labels = _read(folder / layout.test, layout.labels_key, len(names))
    return Dataset(
        name=f"cifar:{folder}",
        train_images=torch.cat([images for images, _ in parts]),
        train_labels=torch.cat([labels for _, labels in parts]),
        test_images=test_images,
        test_labels=test_labels,
        classes=names,
        split="the data set's own test set",
    )


def _names(path: Path, key: str) -> tuple[str, ...]:
    names = _content(path).get(key)
    if not (isinstance(names, list) and all(isinstance(one, bytes | str) for one in names)):
        raise _other(path, f"without the list of texts {key}")
    return tuple(_text(one) for one in names)


def _read(path: Path, labels_key: str, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    content = _content(path)
    data, labels = content.get("data"), content.get(labels_key)
    if not (isinstance(data, ByteArray) and data.array.shape[1:] == (int(np.prod(SHAPE)),)):
        raise _other(path, "without rows of 3,072 bytes in data")
    if not (
        isinstance(labels, list)
        and len(labels) == len(data.array)
        and all(type(one) is int and 0 <= one < classes for one in labels)
    ):
        raise _other(path, f"without a class of each row in {labels_key}")
    return torch.from_numpy(data.array.reshape(-1, *SHAPE).copy()), torch.tensor(labels)


def _content(path: Path) -> dict[str, object]:
    try:
        content = plain_pickle.loads(path.read_bytes())
    except (OSError, pickle.UnpicklingError) as error:
        raise _other(path, f"which cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise _other(path, f"which holds {type(content).__name__}")
    # Python 2, which wrote the published files, has bytes for texts.
    return {_text(key): value for key, value in content.items() if isinstance(key, bytes | str)}


def _text(one: bytes | str) -> str:
    return one.decode("latin-1") if isinstance(one, bytes) else one


def _missing(folder: Path, file: str, archive: str) -> ZeromeanError:
    return ZeromeanError(
        f"cifar:{folder} without {file}",
        "the unpacked folder cifar-10-batches-py or cifar-100-python",
        f"fetch {archive} from {SOURCE} (the Python version), unpack it, and name that folder",
    )


def _other(path: Path, what: str) -> ZeromeanError:
    return ZeromeanError(
        f"{path}, {what}",
        "a pickle of plain data, as published",
        f"fetch it anew from {SOURCE} (the Python version)",
    )

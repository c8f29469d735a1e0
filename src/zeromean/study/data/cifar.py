"""CIFAR-10 and CIFAR-100 as published for Python: pickles with rows of 3,072 bytes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data import plain_pickle
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.plain_pickle import ByteArray

SHAPE = (3, 32, 32)
ROW_BYTES = 3072
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class _Layout(NamedTuple):
    """File names of one of the two data sets, and the keys inside the files."""

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
    """Read the folder ``cifar-10-batches-py`` or ``cifar-100-python``, with the fine labels.

    Nothing that the pickles name is executed: see ``plain_pickle``.

    Raises:
        ZeromeanError: A file is missing or not in the published format.
    """
    layout = next((one for one in LAYOUTS if (folder / one.names).is_file()), None)
    if layout is None:
        files = " or ".join(one.names for one in LAYOUTS)
        raise _missing(folder, files, " or ".join(one.archive for one in LAYOUTS))
    for file in (*layout.train, layout.test):
        if not (folder / file).is_file():
            raise _missing(folder, file, layout.archive)
    names = _content(folder / layout.names).get(layout.names_key)
    if not (isinstance(names, list) and all(isinstance(one, bytes | str) for one in names)):
        raise _invalid(folder / layout.names, f"has no list of strings {layout.names_key}")
    parts = [_read(folder / name, layout.labels_key, len(names)) for name in layout.train]
    test_images, test_labels = _read(folder / layout.test, layout.labels_key, len(names))
    return Dataset(
        name=f"cifar:{folder}",
        train_images=torch.cat([images for images, _ in parts]),
        train_labels=torch.cat([labels for _, labels in parts]),
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(map(_text, names)),
        split="the data set's own test set",
    )


def _read(path: Path, labels_key: str, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    content = _content(path)
    data, labels = content.get("data"), content.get(labels_key)
    if not (isinstance(data, ByteArray) and data.array.shape[1:] == (ROW_BYTES,)):
        raise _invalid(path, f"has no rows of {ROW_BYTES:,} bytes in data")
    if not (
        isinstance(labels, list)
        and len(labels) == len(data.array)
        and all(type(one) is int and 0 <= one < classes for one in labels)
    ):
        raise _invalid(path, f"has no valid class per row in {labels_key}")
    images = torch.from_numpy(data.array.reshape(-1, *SHAPE).copy())
    return images, torch.tensor(labels, dtype=torch.int64)


def _content(path: Path) -> dict[str, object]:
    try:
        content = plain_pickle.loads(path.read_bytes())
    except (OSError, MemoryError, pickle.UnpicklingError) as error:
        raise _invalid(path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise _invalid(path, f"holds a {type(content).__name__} instead of a dict")
    # Python 2, which wrote the published files, stored strings as bytes.
    return {_text(key): value for key, value in content.items() if isinstance(key, bytes | str)}


def _text(one: bytes | str) -> str:
    return one.decode("latin-1") if isinstance(one, bytes) else one


def _missing(folder: Path, file: str, archive: str) -> ZeromeanError:
    return ZeromeanError(
        f"cifar:{folder} has no {file}",
        f"Download {archive} from {SOURCE}, unpack it, and name the unpacked folder",
    )


def _invalid(path: Path, problem: str) -> ZeromeanError:
    return ZeromeanError(f"{path} {problem}", f"Download the Python version again from {SOURCE}")

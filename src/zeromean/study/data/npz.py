"""NumPy archives: images and labels, with or without a split of their own."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.split import UnsplitDataset

# Names under which archives in use store their own split: train images, train labels, test ones.
SPLIT_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
WHOLE_KEYS = ("images", "labels")
LAYOUTS = (*SPLIT_KEYS, WHOLE_KEYS)
# Of an archive without a split of its own.
TEST_FRACTION = 0.2


def read_npz(path: Path) -> Dataset | UnsplitDataset:
    """Reads an archive that holds ``images`` and ``labels``, or train and test arrays.

    Images are unsigned bytes of shape (N, height, width) or (N, height, width, channels) with one
    or three channels, labels integers of shape (N,) or (N, 1). ``images`` and ``labels`` come
    without a split. Other arrays are left alone.

    Raises:
        ZeromeanError: The file is missing, no such archive, or its arrays have other names,
            types or shapes.
    """
    if not path.is_file():
        raise ZeromeanError(f"npz:{path}, which is no file", "an .npz file", "check the path")
    arrays = _read_arrays(path)
    name = f"npz:{path}"
    if WHOLE_KEYS[0] not in arrays:
        return _read_split(path, name, arrays)
    images = _images(path, "images", arrays["images"])
    labels = _labels(path, "labels", arrays["labels"])
    if len(images) != len(labels):
        raise ZeromeanError(
            f"{len(images)} images and {len(labels)} labels in {path}",
            "one label an image",
            "check the arrays",
        )
    values, indices = np.unique(labels, return_inverse=True)
    return UnsplitDataset(name, images, indices, tuple(map(str, values)), TEST_FRACTION)


def _read_split(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Dataset:
    """From train images, train labels, test images, test labels, in this order."""
    train_images, test_images = (_images(path, key, arrays[key]) for key in list(arrays)[::2])
    train_labels, test_labels = (_labels(path, key, arrays[key]) for key in list(arrays)[1::2])
    values = np.union1d(train_labels, test_labels)
    return Dataset(
        name=name,
        train_images=torch.from_numpy(train_images),
        train_labels=torch.from_numpy(np.searchsorted(values, train_labels)),
        test_images=torch.from_numpy(test_images),
        test_labels=torch.from_numpy(np.searchsorted(values, test_labels)),
        classes=tuple(str(value) for value in values),
        split="the archive's own test arrays",
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the first layout that the archive holds; others in it may be of any type."""
    try:
        # Opened here: NumPy leaves a broken archive's file open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            for keys in LAYOUTS:
                if all(key in archive.files for key in keys):
                    return {key: archive[key] for key in keys}
            names = ", ".join(sorted(archive.files))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ZeromeanError(
            f"unreadable {path} ({error})",
            "an .npz archive of plain arrays",
            "write it with numpy.savez_compressed",
        ) from error
    raise ZeromeanError(
        f"{path} with arrays {names or 'none'}",
        " or ".join(", ".join(keys) for keys in LAYOUTS),
        "store the arrays under those names",
    )


def _images(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Bytes of shape (N, channels, height, width)."""
    gray = array.ndim == 3
    color = array.ndim == 4 and array.shape[3] in (1, 3)
    if array.dtype != np.uint8 or not (gray or color):
        raise ZeromeanError(
            f"{key} of type {array.dtype} and shape {array.shape} in {path}",
            "uint8 of shape (N, height, width) or (N, height, width, 1 or 3)",
            "convert the images to bytes, channels last",
        )
    return array[:, None] if gray else np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _labels(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Integers of shape (N,)."""
    flat = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    if not np.issubdtype(array.dtype, np.integer) or not flat or not array.size:
        raise ZeromeanError(
            f"{key} of type {array.dtype} and shape {array.shape} in {path}",
            "integers of shape (N,) or (N, 1), N at least 1",
            "store one class number an image",
        )
    return array.reshape(-1)

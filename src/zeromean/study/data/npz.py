"""NumPy archives of images and labels, with or without a test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset, index_labels
from zeromean.study.data.split import UnsplitDataset

# Names in use for archives with a test set: train images, train labels, test images, test labels.
SPLIT_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
UNSPLIT_KEYS = ("images", "labels")
LAYOUTS = (*SPLIT_KEYS, UNSPLIT_KEYS)
TEST_FRACTION = 0.2


def read_npz(path: Path) -> Dataset | UnsplitDataset:
    """Read an archive with ``images`` and ``labels``, or with train and test arrays.

    Images are unsigned bytes of shape (N, height, width) or (N, height, width, channels) with one
    or three channels, labels integers of shape (N,) or (N, 1). Other arrays are ignored.

    Raises:
        ZeromeanError: The file is missing or not such an archive, or its arrays have other names,
            types or shapes.
    """
    if not path.is_file():
        raise ZeromeanError(f"npz:{path} is not a file", "Check the path")
    arrays = _read_arrays(path)
    name = f"npz:{path}"
    images = [_images(path, key, arrays[key]) for key in list(arrays)[::2]]
    classes, labels = index_labels(*(_labels(path, key, arrays[key]) for key in list(arrays)[1::2]))
    if len(images) == 1:
        if len(images[0]) != len(labels[0]):
            raise ZeromeanError(
                f"{path} has {len(images[0])} images and {len(labels[0])} labels",
                "Store one label per image",
            )
        return UnsplitDataset(name, images[0], labels[0].numpy(), classes, TEST_FRACTION)
    split = "the archive's own test arrays"
    return Dataset(name, images[0], labels[0], images[1], labels[1], classes, split)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the first matching layout; others may have any type."""
    try:
        # Opened here because NumPy leaves the file of a broken archive open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            for keys in LAYOUTS:
                if all(key in archive.files for key in keys):
                    return {key: archive[key] for key in keys}
            names = ", ".join(sorted(archive.files))
    # Broken archives and headers make NumPy and zipfile raise errors of many types.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ZeromeanError(
            f"{path} cannot be read as an .npz archive of plain arrays ({reason})",
            "Write it with numpy.savez_compressed",
        ) from error
    raise ZeromeanError(
        f"{path} has other arrays ({names or 'none'})",
        f"Store {', or '.join(' and '.join(keys) for keys in LAYOUTS)}",
    )


def _images(path: Path, key: str, array: np.ndarray) -> Tensor:
    """Return unsigned bytes of shape (N, channels, height, width)."""
    shape = np.shape(array)
    if not (len(shape) == 3 or shape[3:] in ((1,), (3,))) or array.dtype != np.uint8:
        raise ZeromeanError(
            f"Array {key} of {path} is {_describe(array)}, not uint8 of shape (N, height, width) or"
            " (N, height, width, 1 or 3)",
            "Convert the images to bytes with channels last",
        )
    if len(shape) == 3:
        return torch.from_numpy(array[:, None])
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _labels(path: Path, key: str, array: np.ndarray) -> Tensor:
    """Return int64 of shape (N,)."""
    shape = np.shape(array)
    flat = shape and shape[0] and shape[1:] in ((), (1,))
    if not flat or array.dtype.kind not in "iu" or array.max() > np.iinfo(np.int64).max:
        raise ZeromeanError(
            f"Array {key} of {path} is {_describe(array)}, not integers of shape (N,) or (N, 1)",
            "Store one class number per image",
        )
    return torch.from_numpy(array.reshape(-1).astype(np.int64))


def _describe(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} of shape {array.shape}"
    return "not an array"  # NumPy returns other members of the archive as bytes.

"""Street View House Numbers as published: two MATLAB files of 32x32 images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def read_svhn(folder: Path) -> Dataset:
    """Reads ``train_32x32.mat`` and ``test_32x32.mat`` of the folder; the digit 0 is stored as 10.

    Raises:
        ZeromeanError: A file is missing or is not of the published form.
    """
    parts = {part: _read(folder / name) for part, name in FILES.items()}
    return Dataset(
        name=f"svhn:{folder}",
        train_images=parts["train"][0],
        train_labels=parts["train"][1],
        test_images=parts["test"][0],
        test_labels=parts["test"][1],
        classes=tuple(str(digit) for digit in range(10)),
        split="the data set's own test set",
    )


def _read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    from scipy.io import loadmat

    wanted = "a MATLAB file with X (32, 32, 3, N) of bytes and y (N, 1) from 1 to 10"
    if not path.is_file():
        raise ZeromeanError(
            f"no {path}",
            "SVHN's cropped digits (format 2), as its authors publish them",
            f"put {' and '.join(FILES.values())} into {path.parent}, from"
            " http://ufldl.stanford.edu/housenumbers/",
        )
    try:
        content = loadmat(path)
    # SciPy and zlib raise errors of many kinds, with no root of their own, for what is broken.
    except Exception as error:
        raise ZeromeanError(f"unreadable {path} ({error})", wanted, "fetch it anew") from error
    images, labels = content.get("X"), content.get("y")
    if (
        images is None
        or labels is None
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[2] != 3
        or labels.size != images.shape[3]
        or not labels.size
        or not (1 <= labels.min() <= labels.max() <= 10)
    ):
        raise ZeromeanError(f"{path} with other content", wanted, "check that it is the right file")
    return (
        torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))),
        torch.from_numpy(labels.reshape(-1).astype(np.int64) % 10),
    )

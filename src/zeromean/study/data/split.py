"""A train/test split for data that comes without one."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset

SPLIT_SEED = 0


def split_dataset(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    test_fraction: float,
) -> Dataset:
    """Holds a part of each class out as the test set.

    The split has a fixed seed of its own, so every run of every study sees the same test set.

    Args:
        name: How the user named the data.
        images: Unsigned bytes of shape (N, channels, height, width).
        labels: Class indices of shape (N,), from 0.
        classes: One name a class index.
        test_fraction: Of each class's images, 0 to 1, at most a half.

    Raises:
        ZeromeanError: A class has too few images to be in both parts.
    """
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.argmin())
    wanted = math.ceil(1 / test_fraction)
    if counts[rarest] < wanted:
        raise ZeromeanError(
            f"class {classes[rarest]!r} with {counts[rarest]} image(s) in {name}",
            f"at least {wanted} a class, since {test_fraction:.0%} are held out for testing",
            "add images, or store train and test arrays of your own",
        )
    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_fraction, random_state=SPLIT_SEED, stratify=labels
    )
    return Dataset(
        name=name,
        train_images=torch.from_numpy(images[train]),
        train_labels=torch.from_numpy(labels[train]),
        test_images=torch.from_numpy(images[test]),
        test_labels=torch.from_numpy(labels[test]),
        classes=classes,
        split=f"{test_fraction:.0%} of each class held out at random (stratified, "
        f"seed {SPLIT_SEED}, the same for every run)",
    )

"""A train/test split for data without a test set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import Images
from zeromean.tables import amount

SPLIT_SEED = 0


@dataclass(frozen=True)
class SplitSpec:
    """The choice of a test set from a data set without one.

    Args:
        per_class: Number of test images per class; None for the format's default share.
        seed: Seed of the random choice; None for the seed that all runs share.
    """

    per_class: int | None = None
    seed: int | None = None


DEFAULT_SPLIT = SplitSpec()


@dataclass(frozen=True)
class UnsplitDataset:
    """Images and labels without a test set.

    Args:
        name: Data set as the user named it.
        images: Unsigned bytes of shape (N, channels, height, width), in memory or on disk.
        labels: Class indices of shape (N,), from 0.
        classes: Name of each class.
        test_fraction: Default share of each class's images in the test set, above 0, at most 0.5.
    """

    name: str
    images: Images
    labels: np.ndarray
    classes: tuple[str, ...]
    test_fraction: float

    def divide(self, spec: SplitSpec = DEFAULT_SPLIT) -> Dataset:
        """Return a data set whose test set holds random images of each class.

        Raises:
            ZeromeanError: A class has too few images for both parts.
        """
        from sklearn.model_selection import train_test_split  # slow to import

        seed = SPLIT_SEED if spec.seed is None else spec.seed
        if spec.per_class is None:
            share = f"{self.test_fraction:.0%}"
            self._check(math.ceil(1 / self.test_fraction), share)
            train, test = train_test_split(
                np.arange(len(self.labels)),
                test_size=self.test_fraction,
                random_state=seed,
                stratify=self.labels,
            )
        else:
            share = f"{spec.per_class}"
            self._check(spec.per_class + 1, share)
            order = np.random.default_rng(seed).permutation(len(self.labels))
            members = [order[self.labels[order] == label] for label in range(len(self.classes))]
            test = np.sort(np.concatenate([own[: spec.per_class] for own in members]))
            train = np.setdiff1d(order, test)
        kind = f"seed {seed} for every run" if spec.seed is None else "a new choice per seed"
        labels = torch.from_numpy(self.labels)
        return Dataset(
            name=self.name,
            train_images=self.images[train],
            train_labels=labels[train],
            test_images=self.images[test],
            test_labels=labels[test],
            classes=self.classes,
            split=f"{share} of each class, chosen at random (stratified, {kind})",
        )

    def _check(self, needed: int, share: str) -> None:
        counts = np.bincount(self.labels, minlength=len(self.classes))
        rarest = int(counts.argmin())
        if counts[rarest] < needed:
            raise ZeromeanError(
                f"Class {self.classes[rarest]!r} of {self.name} has"
                f" {amount(int(counts[rarest]), 'image')}; at least {needed} are needed to hold out"
                f" {share} for testing",
                "Add images, or provide separate train and test images",
            )

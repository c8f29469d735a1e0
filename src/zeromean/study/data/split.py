"""A train/test split for data that comes without one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset

SPLIT_SEED = 0


@dataclass(frozen=True)
class SplitSpec:
    """Which images are held out as the test set, of data that comes without one.

    Args:
        per_class: How many of each class; None for the format's usual share.
        seed: What they are drawn by; None for the one that every run of every study shares.
    """

    per_class: int | None = None
    seed: int | None = None


USUAL = SplitSpec()


@dataclass(frozen=True)
class UnsplitDataset:
    """Images and labels without a test set.

    Args:
        name: How the user named the data.
        images: Unsigned bytes of shape (N, channels, height, width).
        labels: Class indices of shape (N,), from 0.
        classes: One name a class index.
        test_fraction: Of each class's images, 0 to 1, at most a half: what is usually held out.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    test_fraction: float

    def divide(self, division: SplitSpec = USUAL) -> Dataset:
        """Holds a part of each class out as the test set.

        Raises:
            ZeromeanError: A class has too few images to be in both parts.
        """
        seed = SPLIT_SEED if division.seed is None else division.seed
        if division.per_class is None:
            share = f"{self.test_fraction:.0%}"
            self._check(math.ceil(1 / self.test_fraction), share)
            train, test = train_test_split(
                np.arange(len(self.labels)),
                test_size=self.test_fraction,
                random_state=seed,
                stratify=self.labels,
            )
        else:
            share = f"{division.per_class}"
            self._check(division.per_class + 1, share)
            order = np.random.default_rng(seed).permutation(len(self.labels))
            of_class = [order[self.labels[order] == label] for label in range(len(self.classes))]
            test = np.sort(np.concatenate([own[: division.per_class] for own in of_class]))
            train = np.setdiff1d(order, test)
        drawn = (
            f"seed {seed}, the same for every run" if division.seed is None else "anew each seed"
        )
        return Dataset(
            name=self.name,
            train_images=torch.from_numpy(self.images[train]),
            train_labels=torch.from_numpy(self.labels[train]),
            test_images=torch.from_numpy(self.images[test]),
            test_labels=torch.from_numpy(self.labels[test]),
            classes=self.classes,
            split=f"{share} of each class held out at random (stratified, {drawn})",
        )

    def _check(self, wanted: int, share: str) -> None:
        counts = np.bincount(self.labels, minlength=len(self.classes))
        rarest = int(counts.argmin())
        if counts[rarest] < wanted:
            raise ZeromeanError(
                f"class {self.classes[rarest]!r} with {counts[rarest]} image(s) in {self.name}",
                f"at least {wanted} a class, since {share} are held out for testing",
                "add images, or store train and test arrays of your own",
            )

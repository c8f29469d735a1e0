"""Images of several parts and classes in one tensor, until they are a data set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import Images


class Decoded(NamedTuple):
    """Images with their parts and labels.

    Args:
        images: Of shape (N, channels, height, width).
        groups: The parts and labels that there are, such as ``("train", "cat")``.
        group: Which of these each image is of, by its place.
    """

    images: Images
    groups: tuple[tuple[str, str], ...]
    group: np.ndarray

    @property
    def parts(self) -> set[str]:
        """Those with an image."""
        return {part for part, _ in self.groups}

    def dataset(
        self, name: str, test: str, split: str, classes: tuple[str, ...] | None = None
    ) -> Dataset:
        """The part ``train`` and a part for the test as a data set.

        Args:
            name: How the user named the data.
            test: Name of that part.
            split: One sentence on where it comes from.
            classes: Labels in their order; None for that of the alphabet.

        Raises:
            ZeromeanError: The parts do not fit each other.
        """
        if classes is None:
            classes = tuple(
                sorted({label for part, label in self.groups if part in ("train", test)})
            )
        train_images, train_labels = self._part("train", classes)
        test_images, test_labels = self._part(test, classes)
        return Dataset(name, train_images, train_labels, test_images, test_labels, classes, split)

    def _part(self, part: str, classes: tuple[str, ...]) -> tuple[Images, torch.Tensor]:
        index = {label: number for number, label in enumerate(classes)}
        # Of groups of other parts -1, which is no class.
        of_group = np.array([index[label] if own == part else -1 for own, label in self.groups])
        labels = of_group[self.group]
        rows = np.flatnonzero(labels >= 0)
        first, last = rows[0], rows[-1]
        # Side by side, as a folder has them, they need no copy.
        own = slice(first, last + 1) if last - first + 1 == len(rows) else rows
        return self.images[own], torch.from_numpy(labels[rows])

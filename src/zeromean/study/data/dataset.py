"""The data set that every reader returns: images and labels, already split and checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError, warn
from zeromean.study.data.disk_images import Images


@dataclass(frozen=True)
class Dataset:
    """A classification task of square images of one size.

    A class without a test image gives a :class:`zeromean.ZeromeanWarning`.

    Args:
        name: Name of the data set as the user gave it, which reports show.
        train_images: Unsigned bytes of shape (N, channels, side, side), in memory or on disk.
        train_labels: Class indices of shape (N,), int64, from 0.
        test_images: Test images in the form of ``train_images``.
        test_labels: Test labels in the form of ``train_labels``.
        classes: Name of each class.
        split: Phrase that describes the origin of the test set.

    Raises:
        ZeromeanError: The images are not square or differ in size between train and test, labels
            and images differ in number, a part is empty, there are fewer than two classes, or a
            class has no training image.
    """

    name: str
    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: tuple[str, ...]
    split: str

    def __post_init__(self) -> None:
        train, test = self.train_images, self.test_images
        for part, images, labels in (
            ("train", train, self.train_labels),
            ("test", test, self.test_labels),
        ):
            if len(images) != len(labels) or not len(images):
                raise ZeromeanError(
                    f"{self.name} has {len(images)} {part} images and {len(labels)} {part} labels",
                    "Provide one label per image" if len(images) else f"Add {part} images",
                )
            height, width = images.shape[2:]
            if height != width or height == 0:
                raise ZeromeanError(
                    f"The {part} images of {self.name} have {height}x{width} pixels; only square"
                    " images are supported",
                    "Crop or pad the images to squares",
                )
        if train.shape[1:] != test.shape[1:]:
            raise ZeromeanError(
                f"{self.name} has {_size(train)} train and {_size(test)} test images",
                "Bring all images to one size",
            )
        if len(self.classes) < 2:
            raise ZeromeanError(
                f"{self.name} has {len(self.classes)} class(es); at least 2 are needed",
                "Add a class",
            )
        if missing := self._absent_classes(self.train_labels):
            raise ZeromeanError(
                f"{self.name} has no train image of class {missing[0]!r}",
                "Add train images of that class, or remove it from the test images",
            )
        if missing := self._absent_classes(self.test_labels):
            warn(
                f"{self.name} has no test image of {len(missing)} of its {len(self.classes)}"
                f" classes, such as {missing[0]!r}; the test score ignores them."
            )

    def _absent_classes(self, labels: Tensor) -> list[str]:
        counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return self.train_images.shape[2]

    def describe(self) -> str:
        """Return one line with the numbers of images, their size, and the number of classes."""
        return (
            f"{len(self.train_labels):,} train and {len(self.test_labels):,} test images, "
            f"{_size(self.train_images)}, {len(self.classes)} classes"
        )


def _size(images: Images) -> str:
    channels, height, width = images.shape[1:]
    return f"{height}x{width}x{channels}"


def index_labels(*parts: Tensor) -> tuple[tuple[str, ...], list[Tensor]]:
    """Map arbitrary integer labels to class indices from 0.

    Args:
        parts: Integer labels of each part, such as train and test, of shape (N,).

    Returns:
        Class names, which are the labels in ascending order, and the indices of each part.

    Example:
        >>> index_labels(torch.tensor([3, 9]), torch.tensor([9]))
        (('3', '9'), [tensor([0, 1]), tensor([1])])
    """
    values: Tensor = torch.unique(torch.cat(parts))
    names = tuple(str(value) for value in values.tolist())
    return names, [torch.searchsorted(values, part) for part in parts]

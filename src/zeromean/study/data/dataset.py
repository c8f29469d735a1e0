"""What every reader returns: images and labels, already split and checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.disk_images import Images


@dataclass(frozen=True)
class Dataset:
    """A classification task of square images of one size.

    Args:
        name: How the user named it, shown in reports.
        train_images: Unsigned bytes of shape (N, channels, side, side), in memory or in a file.
        train_labels: Class indices of shape (N,), int64, from 0.
        test_images: As ``train_images``.
        test_labels: As ``train_labels``.
        classes: One name a class index.
        split: One sentence on where the test set comes from.

    Raises:
        ZeromeanError: The images are not square or differ in size between train and test, labels
            and images differ in number, or a class has no training or no test image.
    """

    name: str
    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: tuple[str, ...]
    split: str

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            self._check_part(part, images, labels)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ZeromeanError(
                f"{_size(self.train_images)} train and {_size(self.test_images)} test images "
                f"in {self.name}",
                "one image size",
                "resize the images to one size",
            )

    def _check_part(self, part: str, images: Images, labels: Tensor) -> None:
        if len(images) != len(labels):
            raise ZeromeanError(
                f"{len(images)} {part} images and {len(labels)} {part} labels in {self.name}",
                "one label an image",
                "check that both files belong together",
            )
        height, width = images.shape[2:]
        if height != width or height == 0:
            raise ZeromeanError(
                f"{part} images of {height}x{width} pixels in {self.name}",
                "square images",
                "crop or pad the images to squares",
            )
        if len(self.classes) < 2:
            raise ZeromeanError(
                f"{len(self.classes)} class(es) in {self.name}",
                "at least two classes",
                "add a class",
            )
        counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        for name, count in zip(self.classes, counts, strict=True):
            if count == 0:
                raise ZeromeanError(
                    f"class {name!r} without a {part} image in {self.name}",
                    "every class in both train and test",
                    f"add {part} images of {name!r} or remove the class",
                )

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return self.train_images.shape[2]

    def describe(self) -> str:
        """One line for reports: the numbers of images, their size, the number of classes."""
        return (
            f"{len(self.train_labels):,} train and {len(self.test_labels):,} test images, "
            f"{_size(self.train_images)}, {len(self.classes)} classes"
        )


def _size(images: Images) -> str:
    channels, height, width = images.shape[1:]
    return f"{height}x{width}x{channels}"

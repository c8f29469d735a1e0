"""Image files, decoded one by one and brought to one size, until they are a data set."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.settings import SettingError


@dataclass(frozen=True)
class Size:
    """What is done to an image once it is decoded.

    Args:
        resize: Height and width that it is scaled to, whatever its proportions; None for none.
        crop: Height and width of the middle that is kept of it then; None for all.
    """

    resize: int | None = None
    crop: int | None = None

    @property
    def says_nothing(self) -> bool:
        return self.resize is None and self.crop is None

    def of(self, name: str, image: Image.Image) -> Image.Image:
        """The image in that size.

        Raises:
            ZeromeanError: It is smaller than what is to be kept of it.
        """
        if self.resize is not None:
            image = image.resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        if self.crop is None:
            return image
        width, height = image.size
        if min(width, height) < self.crop:
            raise SettingError(
                "crop",
                f"{name} of {height}x{width} pixels with crop = {self.crop}",
                "a crop within every image",
                "lower crop, or resize first",
                "leave out images that are smaller",
            )
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        return image.crop((left, top, left + self.crop, top + self.crop))


class Album:
    """Images with their labels, in parts.

    Args:
        name: How the user named the data.
        size: What each image is brought to.
    """

    def __init__(self, name: str, size: Size) -> None:
        self.name = name
        self._size = size
        self._images: dict[str, list[np.ndarray]] = {}
        self._labels: dict[str, list[str]] = {}
        self._shape: tuple[int, ...] | None = None

    def add(self, part: str, label: str, file: str, content: bytes) -> None:
        """Decodes one file into a part.

        Raises:
            ZeromeanError: It is broken, or of another size than the first.
        """
        pixels = self._decode(file, content)
        self._shape = self._shape or pixels.shape[:2]
        if pixels.shape[:2] != self._shape:
            raise SettingError(
                "resize",
                f"{file} of {pixels.shape[0]}x{pixels.shape[1]} pixels",
                f"{self._shape[0]}x{self._shape[1]} like the first image",
                "say one size with resize",
                "bring the files to one size",
            )
        self._images.setdefault(part, []).append(pixels)
        self._labels.setdefault(part, []).append(label)

    @property
    def parts(self) -> set[str]:
        """Those with an image."""
        return {*self._images}

    def dataset(self, test: str, split: str) -> Dataset:
        """The parts ``train`` and ``test`` as a data set; the album is empty from then on.

        Raises:
            ZeromeanError: They do not fit each other.
        """
        images = {"train": self._images["train"], "test": self._images[test]}
        names = {"train": self._labels["train"], "test": self._labels[test]}
        self._images.clear()
        classes = tuple(sorted({*names["train"], *names["test"]}))
        index = {label: number for number, label in enumerate(classes)}
        labels = {part: torch.tensor([index[one] for one in names[part]]) for part in names}
        grey = all(pixels.ndim == 2 for part in images.values() for pixels in part)
        return Dataset(
            name=self.name,
            train_images=_stack(images["train"], grey),
            train_labels=labels["train"],
            test_images=_stack(images["test"], grey),
            test_labels=labels["test"],
            classes=classes,
            split=split,
        )

    def _decode(self, name: str, content: bytes) -> np.ndarray:
        """Bytes of shape (height, width) for a grey image, else (height, width, 3)."""
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode.startswith(("I", "F")):  # Pillow would clip these to black and white
                    raise ZeromeanError(
                        f"image {name} with more than 8 bits a pixel (mode {image.mode})",
                        "8 bits a channel",
                        "convert the images",
                    )
                plain = image if image.mode == "L" else image.convert("RGB")
                return np.asarray(self._size.of(name, plain))
        # Pillow's decoders raise SyntaxError and ValueError too on broken files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ZeromeanError(
                f"broken image {name}", "an image that can be decoded", "replace or remove the file"
            ) from error


def _stack(images: list[np.ndarray], grey: bool) -> torch.Tensor:
    """One tensor (N, channels, height, width); grey images among coloured ones become coloured.

    The list is used up on the way, so that not all images are in memory twice.
    """
    height, width = images[0].shape[:2]
    stacked = torch.empty((len(images), 1 if grey else 3, height, width), dtype=torch.uint8)
    for index in reversed(range(len(images))):
        pixels = np.atleast_3d(images.pop())
        stacked[index] = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return stacked

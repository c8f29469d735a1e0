"""Read image files: which files are images, how they are decoded, and to which size.

Folders, tar archives and Hugging Face data sets share this code, so that the same files give the
same pixels.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import ImageCache, Images, images_in_memory
from zeromean.study.data.split import UnsplitDataset
from zeromean.study.spec.validation import SettingError

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# Decoders that a file may select by its content. Pillow has others that start programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GRAY_MODES = ("1", "L", "LA", "La")
MAX_FILE_BYTES = 2**30
# Raise this when the same files give other pixels or labels than before.
RULES_VERSION = 1
# Number of images that a thread decodes at a time.
DECODE_BATCH = 16


def is_image(name: str) -> bool:
    """Return whether a file of that name is an image, by its suffix.

    Example:
        >>> is_image("cat.JPEG"), is_image("notes.txt")
        (True, False)
    """
    return PurePath(name).suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is hidden or made by an operating system."""
    return name.startswith(".") or name in ("@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini")


def read_file(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        ZeromeanError: The file cannot be read or is too large.
    """
    try:
        check_file_size(str(path), path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise ZeromeanError(f"{path} cannot be read ({error})", "Make the file readable") from error


def check_file_size(name: str, size: int) -> None:
    """Raise if an image file is larger than any sensible image."""
    if size > MAX_FILE_BYTES:
        raise ZeromeanError(
            f"Image {name} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are allowed",
            "Replace or remove the file",
        )


@dataclass(frozen=True)
class ImageTransform:
    """Steps that bring decoded images to one size, in this order.

    Args:
        resize: Height and width in pixels to scale each image to, ignoring its aspect ratio; None
            keeps its size.
        crop: Height and width in pixels of the center to keep; None keeps everything.
        grayscale: Whether to convert colors to gray.
    """

    resize: int | None = None
    crop: int | None = None
    grayscale: bool = False

    def apply(self, name: str, image: Image.Image) -> Image.Image:
        """Return the transformed image.

        Raises:
            ZeromeanError: The image is smaller than the crop.
        """
        if self.resize is not None:
            image = image.resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        if self.crop is not None:
            width, height = image.size
            if min(width, height) < self.crop:
                raise SettingError(
                    "crop",
                    f"Image {name} has {height}x{width} pixels, fewer than crop={self.crop}",
                    "Lower crop, or set resize",
                    instead="Remove smaller images",
                )
            left, top = (width - self.crop) // 2, (height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image.convert("L") if self.grayscale else image


UNCHANGED = ImageTransform()


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """Return a digest of the names, sizes and modification times of files, without reading them.

    A file that changes but keeps its size and its modification time goes unnoticed.

    Args:
        files: Name that identifies each file among the others, and its path.
    """
    digest = hashlib.sha256()
    for name, path in files:
        status = path.stat()
        text = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()


class ImageFile(NamedTuple):
    """An image file with its label.

    Args:
        part: Part of the data, such as ``train``.
        label: Name of the class.
        name: Path or description for error messages.
        read: Function that returns the content; worker threads call it.
    """

    part: str
    label: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageSource:
    """A collection of image files.

    Args:
        name: Data set as the user named it.
        fingerprint: Text that changes whenever a file changes.
        count: Number of files.
        files: Function that iterates over the files, always in the same order.
    """

    name: str
    fingerprint: str
    count: int
    files: Callable[[], Generator[ImageFile, None, None]]


class LabeledImages(NamedTuple):
    """All images of a source.

    Args:
        images: Unsigned bytes of shape (N, channels, height, width).
        groups: Pairs of part and label, such as ``("train", "cat")``.
        group: Index into ``groups`` per image, of shape (N,).
    """

    images: Images
    groups: tuple[tuple[str, str], ...]
    group: np.ndarray

    def dataset(
        self, name: str, test: str, split: str, classes: tuple[str, ...] | None = None
    ) -> Dataset:
        """Return the part ``train`` and a test part as a data set.

        Args:
            name: Data set as the user named it.
            test: Name of the test part.
            split: One sentence on the origin of the test set.
            classes: Labels in the order of their indices; None for alphabetical order. Labels
                without an image are left out.
        """
        used = {label for part, label in self.groups if part in ("train", test)}
        classes = tuple(one for one in classes or sorted(used) if one in used)
        train, held_out = self._part("train", classes), self._part(test, classes)
        return Dataset(name, *train, *held_out, classes, split)

    def unsplit(self, name: str, test_fraction: float) -> UnsplitDataset:
        """Return all images, whose part is empty, as a data set without a test set."""
        classes = tuple(sorted(label for _, label in self.groups))
        images, labels = self._part("", classes)
        return UnsplitDataset(name, images, labels.numpy(), classes, test_fraction)

    def _part(self, part: str, classes: tuple[str, ...]) -> tuple[Images, Tensor]:
        index = {label: number for number, label in enumerate(classes)}
        of_group = np.array([index[label] if own == part else -1 for own, label in self.groups])
        labels = of_group[self.group]
        rows = np.flatnonzero(labels >= 0)
        # Contiguous rows, the usual case, need no copy.
        contiguous = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        own = slice(rows[0], rows[-1] + 1) if contiguous else rows
        return self.images[own], torch.from_numpy(labels[rows])


class _ColorFoundError(Exception):
    """An image has colors, although the first one is gray."""


def load_images(source: ImageSource, transform: ImageTransform) -> LabeledImages:
    """Decode all images: into memory, or into a cached file if they exceed the memory limit.

    Images have one channel if all of them are gray, three otherwise.

    Raises:
        ZeromeanError: A file is broken or differs in size from the first; or ``grayscale`` is set
            and all images are gray; or the cached file finds no room on the disk.
    """
    # Pillow and the rules of this module decide which pixels a file has.
    state = f"{source.fingerprint} Pillow {PIL.__version__} rules {RULES_VERSION}"
    cache = ImageCache(source.name, repr(transform), state)
    if (found := cache.find()) is not None:
        return LabeledImages(*found)
    with closing(source.files()) as files:
        shape = _decode(next(files), transform)[0].shape
    try:
        return _load(source, transform, shape, cache)
    except _ColorFoundError:
        return _load(source, transform, (3, *shape[1:]), cache)


def _load(
    source: ImageSource, transform: ImageTransform, shape: tuple[int, ...], cache: ImageCache
) -> LabeledImages:
    groups: dict[tuple[str, str], int] = {}
    with closing(_decode_all(source, transform, shape, groups)) as rows:
        if source.count * math.prod(shape) > images_in_memory():
            return LabeledImages(*cache.write(rows, shape, source.count, groups))
        images = np.empty((source.count, *shape), np.uint8)
        group = np.empty(source.count, np.int32)
        for number, (pixels, own) in enumerate(rows):
            images[number], group[number] = pixels, own
    return LabeledImages(torch.from_numpy(images), tuple(groups), group)


def _decode_all(
    source: ImageSource,
    transform: ImageTransform,
    shape: tuple[int, ...],
    groups: dict[tuple[str, str], int],
) -> Generator[tuple[np.ndarray, int], None, None]:
    """Iterate over pixels and group of each image in order, and add new groups to ``groups``."""

    def decode(files: list[ImageFile]) -> list[tuple[ImageFile, np.ndarray, bool]]:
        return [(file, *_decode(file, transform, shape)) for file in files]

    workers = os.cpu_count() or 1
    waiting: deque[Future[list[tuple[ImageFile, np.ndarray, bool]]]] = deque()
    count, any_color = 0, False
    with closing(source.files()) as files, ThreadPoolExecutor(workers) as threads:
        try:
            while (batch := list(islice(files, DECODE_BATCH))) or waiting:
                if batch:
                    waiting.append(threads.submit(decode, batch))
                if batch and len(waiting) < workers + 2:
                    continue
                for file, pixels, colored in waiting.popleft().result():
                    count, any_color = count + 1, any_color or colored
                    if count > source.count:
                        break
                    yield pixels, groups.setdefault((file.part, file.label), len(groups))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    if count != source.count:
        raise ZeromeanError(
            f"The files of {source.name} changed during reading", "Run the command again"
        )
    if transform.grayscale and not any_color:
        raise SettingError(
            "gray",
            f"gray is set, but all images of {source.name} are gray",
            "Leave gray out",
            instead="Use color images",
        )


def _decode(
    file: ImageFile, transform: ImageTransform, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, bool]:
    """Return bytes of shape (channels, height, width), and whether the file has colors."""
    content = file.read()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            mode, upright = opened.mode, _upright(opened)
            colored = not _is_gray(upright)
            # Pillow would clip more bits to black and white.
            image = None if mode[0] in "IF" else upright.convert("RGB" if colored else "L")
    # Broken files make the decoders raise errors of many types.
    except Exception as error:
        raise ZeromeanError(
            f"Image {file.name} cannot be decoded as one of {', '.join(FORMATS)}"
            f" ({type(error).__name__})",
            "Replace or remove the file",
        ) from error
    if image is None:
        raise ZeromeanError(
            f"Image {file.name} has more than 8 bits per channel (mode {mode})",
            "Convert the images to 8 bits per channel",
        )
    values = np.asarray(transform.apply(file.name, image))
    pixels = np.atleast_3d(values).transpose(2, 0, 1)
    shape = pixels.shape if shape is None else shape
    if pixels.shape[1:] != shape[1:]:
        raise SettingError(
            "resize",
            f"Image {file.name} has {pixels.shape[1]}x{pixels.shape[2]} pixels, unlike the first"
            f" image with {shape[1]}x{shape[2]}",
            "Set one size with resize",
            instead="Bring the files to one size",
        )
    if len(pixels) > shape[0]:
        raise _ColorFoundError
    return np.ascontiguousarray(np.broadcast_to(pixels, shape)), colored


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # A broken EXIF block does not make the pixels wrong.
        return ImageOps.exif_transpose(image)
    return image


def _is_gray(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GRAY_MODES

"""Image files, decoded and brought to one size, until they are a data set."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image

from zeromean.errors import ZeromeanError
from zeromean.study.data.cache import Cache, Check, Written, images_in_memory
from zeromean.study.data.decoded import Decoded
from zeromean.study.data.disk_images import Ledger, PixelFacts
from zeromean.study.settings import SettingError

# Modes of images without colors, of 8 bits or less.
GRAY = ("1", "L")
# Images that a thread decodes before it takes the next ones.
TOGETHER = 16


@dataclass(frozen=True)
class ImageTransform:
    """What is done to an image once it is decoded.

    Args:
        resize: Height and width that it is scaled to, whatever its proportions; None for none.
        crop: Height and width of the middle that is kept of it then; None for all.
        grayscale: Whether colors are made gray at last.
    """

    resize: int | None = None
    crop: int | None = None
    grayscale: bool = False

    @property
    def says_nothing(self) -> bool:
        return self == ImageTransform()

    def of(self, name: str, image: Image.Image) -> Image.Image:
        """The image in that size.

        Raises:
            ZeromeanError: It is smaller than what is to be kept of it.
        """
        if self.resize is not None:
            image = image.resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        if self.crop is not None:
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
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image.convert("L") if self.grayscale else image


class Picture(NamedTuple):
    """An image file.

    Args:
        part: Such as ``train``.
        label: Name of its class.
        name: For messages.
        open: Gives the image, in another thread.
    """

    part: str
    label: str
    name: str
    open: Callable[[], Image.Image]


class _Page(NamedTuple):
    """A decoded image: bytes of shape (channels, height, width), and what is known of them."""

    picture: Picture
    pixels: np.ndarray
    colored: bool
    facts: PixelFacts | None


class _ColorError(Exception):
    """An image with colors, where all were thought to be gray."""


class _MemoryError(Exception):
    """More images than may be in memory."""


@dataclass(frozen=True)
class Album:
    """Image files with their labels, in parts.

    Args:
        name: How the user named the data.
        size: What each image is brought to.
        source: What changes as soon as a file does.
        count: How many files there are; None where only reading them tells.
        pictures: The files, each time in the same order.
    """

    name: str
    size: ImageTransform
    source: str
    count: int | None
    pictures: Callable[[], Iterable[Picture]]

    def read(self) -> Decoded:
        """All images: in memory, or in a file where they would take too much of it.

        They are bytes of one channel where all of them are gray, else of three.

        Raises:
            ZeromeanError: A file is broken, or of another size than the first; all are gray and
                are to be made so; or no disk has room for what does not fit into memory.
        """
        # Which pixels a file has, is for its decoder to say.
        cache = Cache(self.name, repr(self.size), f"{self.source} Pillow {PIL.__version__}")
        return cache.find() or self._in_memory() or cache.make(self._write)

    def _in_memory(self) -> Decoded | None:
        """None where they are too large for that."""
        most, file = images_in_memory(), io.BytesIO()

        def check(total: int, written: int) -> None:
            if total > most:
                raise _MemoryError

        try:
            written = self._write(file, check, measure=False)
        except _MemoryError:
            return None
        images = torch.from_numpy(np.asarray(file.getbuffer())).view(-1, *written.shape)
        return Decoded(images, written.groups, written.group)

    def _write(self, file: BinaryIO, check: Check, measure: bool = True) -> Written:
        """Writes the images one after another.

        Args:
            file: Empty.
            check: Asked before each of them.
            measure: Whether facts of them are asked for.
        """
        try:
            return self._write_channels(1, file, check, measure)
        except _ColorError:
            file.seek(0)
            file.truncate()
            return self._write_channels(3, file, check, measure)

    def _write_channels(
        self, channels: int, file: BinaryIO, check: Check, measure: bool
    ) -> Written:
        shape: tuple[int, ...] = ()
        groups: dict[tuple[str, str], int] = {}
        group: list[int] = []
        facts = Ledger()
        colored = False
        with closing(self._pages(channels, measure)) as pages:
            for picture, pixels, has_colors, own in pages:
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    raise SettingError(
                        "resize",
                        f"{picture.name} of {pixels.shape[1]}x{pixels.shape[2]} pixels",
                        f"{shape[1]}x{shape[2]} like the first image",
                        "say one size with resize",
                        "bring the files to one size",
                    )
                total = max(self.count or 0, len(group) + 1)
                check(total * pixels.nbytes, len(group) * pixels.nbytes)
                file.write(pixels.data)
                group.append(groups.setdefault((picture.part, picture.label), len(groups)))
                colored |= has_colors
                if own is not None:
                    facts.add(own)
        if group and self.size.grayscale and not colored:
            raise SettingError(
                "gray",
                f"gray with {self.name}, whose images are",
                "colored images",
                "leave gray out",
                "pass colored ones",
            )
        return Written(
            shape or (channels, 1, 1),
            tuple(groups),
            np.array(group, np.int32),
            facts.close(),
        )

    def _pages(self, channels: int, measure: bool) -> Generator[_Page, None, None]:
        """The decoded images in the order of the files, few at a time: threads are ahead."""
        workers = os.cpu_count() or 1
        pictures = iter(self.pictures())

        def decode(some: list[Picture]) -> list[_Page]:
            return [self._decode(picture, channels, measure) for picture in some]

        waiting: deque[Future[list[_Page]]] = deque()
        with ThreadPoolExecutor(workers) as threads:
            try:
                while some := list(islice(pictures, TOGETHER)):
                    waiting.append(threads.submit(decode, some))
                    if len(waiting) > workers + 1:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _decode(self, picture: Picture, channels: int, measure: bool) -> _Page:
        name = picture.name
        try:
            with picture.open() as image:
                if image.mode.startswith(("I", "F")):  # Pillow would clip these to black and white
                    raise ZeromeanError(
                        f"image {name} with more than 8 bits a pixel (mode {image.mode})",
                        "8 bits a channel",
                        "convert the images",
                    )
                colored = image.mode not in GRAY
                brought = self.size.of(name, image.convert("RGB" if colored else "L"))
        # Pillow's decoders raise SyntaxError and ValueError too on broken files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ZeromeanError(
                f"broken image {name}", "an image that can be decoded", "replace or remove the file"
            ) from error
        if brought.mode != "L" and channels == 1:
            raise _ColorError
        values = np.asarray(brought.convert("L" if channels == 1 else "RGB"))
        pixels = np.ascontiguousarray(np.atleast_3d(values).transpose(2, 0, 1))
        return _Page(picture, pixels, colored, PixelFacts.of(pixels) if measure else None)

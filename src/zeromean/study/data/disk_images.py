"""Images in a file, of which memory holds those in use: as far as a study needs them, a tensor."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Of SHA-256.
DIGEST_BYTES = 32


class PixelFacts(NamedTuple):
    """What takes a look at every pixel, of one image or of many, kept so that none is needed.

    Args:
        digests: SHA-256 of each image's bytes.
        totals: Sum of each channel of each image.
        squares: Sum of the squares of each channel of each image.
    """

    digests: np.ndarray
    totals: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> PixelFacts:
        """Of one image: bytes of shape (channels, height, width)."""
        values = pixels.reshape(len(pixels), -1)
        counts = np.stack([np.bincount(channel, minlength=256) for channel in values])
        return cls(
            np.frombuffer(hashlib.sha256(pixels.data).digest(), np.uint8),
            counts @ np.arange(256),
            counts @ np.arange(256) ** 2,
        )


class Ledger:
    """Facts of images as they come: millions take the memory of their numbers, not of arrays."""

    def __init__(self) -> None:
        self._columns = [bytearray() for _ in PixelFacts._fields]
        self._like: PixelFacts | None = None

    def add(self, facts: PixelFacts) -> None:
        """Those of the next image."""
        self._like = facts
        for column, values in zip(self._columns, facts, strict=True):
            column.extend(values.tobytes())

    def close(self) -> PixelFacts | None:
        """Of all images; None of none."""
        if self._like is None:
            return None
        pairs = zip(self._columns, self._like, strict=True)
        return PixelFacts(
            *(np.frombuffer(column, one.dtype).reshape(-1, len(one)) for column, one in pairs)
        )


class DiskImages:
    """Images of a file, in any order: what a study uses of a tensor's interface.

    What is taken of them is read then, and goes to their device.

    Args:
        images: Unsigned bytes of shape (N, channels, height, width), as :func:`map_file` gives
            them.
        facts: Of each of them.
        rows: Which of them, in which order; None for all as they are.
        device: Where what is taken goes.
    """

    def __init__(
        self,
        images: Tensor,
        facts: PixelFacts,
        rows: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._images, self._facts = images, facts
        self._rows = torch.arange(len(images)) if rows is None else rows
        self.device = device or images.device

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self._rows), *self._images.shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        return self._images.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | np.ndarray | Tensor) -> DiskImages:
        """Some of them, of which none is read yet."""
        return DiskImages(self._images, self._facts, self._rows[index], self.device)

    def to(self, device: torch.device) -> DiskImages:
        """The same images in the same file, for another device."""
        return DiskImages(self._images, self._facts, self._rows, device)

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them, so many at a time."""
        return self.batches(torch.split(torch.arange(len(self)), size))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Those of each batch of indices, the next ones read ahead; the device is not waited for.

        Args:
            order: Indices on the processor.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for indices in order:
                following = reader.submit(self._read, indices)
                if ahead is not None:
                    yield ahead.result().to(self.device, non_blocking=True)
                ahead = following
            if ahead is not None:
                yield ahead.result().to(self.device, non_blocking=True)

    def _read(self, indices: Tensor) -> Tensor:
        chosen = torch.empty(
            (len(indices), *self.shape[1:]),
            dtype=self.dtype,
            pin_memory=self.device.type == "cuda",  # or the copy would be waited for
        )
        return torch.index_select(self._images, 0, self._rows[indices], out=chosen)

    @property
    def digests(self) -> np.ndarray:
        """SHA-256 of each image, of shape (N, 32)."""
        chosen: np.ndarray = self._facts.digests[self._rows.numpy()]
        return chosen

    def channel_sums(self) -> tuple[Tensor, Tensor]:
        """Sum of the values of each channel over all images, and of their squares."""
        rows = self._rows.numpy()
        totals, squares = self._facts.totals[rows].sum(0), self._facts.squares[rows].sum(0)
        return torch.from_numpy(totals).to(self.device), torch.from_numpy(squares).to(self.device)


Images = Tensor | DiskImages


def map_file(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The bytes of a file as a tensor that must not be written to.

    Raises:
        OSError: It cannot be mapped.
        ValueError: It has another size.
    """
    if path.stat().st_size != math.prod(shape):
        raise ValueError(f"{path} of {path.stat().st_size:,} bytes, not {math.prod(shape):,}")
    # Not as torch.from_file does: what is mapped to be written, even privately, counts as memory
    # that is promised, and the system refuses more of it than there is.
    values = np.memmap(path, np.uint8, "r", shape=shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


def split(images: Images, size: int) -> Iterable[Tensor]:
    """All of them on their device, so many at a time."""
    return images.split(size) if isinstance(images, DiskImages) else torch.split(images, size)


def digests(images: Images) -> np.ndarray:
    """SHA-256 of the bytes of each image, of shape (N, 32): the same in memory as in a file."""
    if isinstance(images, DiskImages):
        return images.digests
    found = [hashlib.sha256(one.data).digest() for one in images.cpu().contiguous().numpy()]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, DIGEST_BYTES)

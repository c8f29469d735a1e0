"""Images on disk: decoded images that exceed the memory limit, in an Arrow file.

Hugging Face's ``datasets`` maps the file into memory and gathers rows of it in any order.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs
import psutil
import torch
from filelock import FileLock
from torch import Tensor

from zeromean.errors import ZeromeanError, needs_extra

CACHE_VARIABLE = "ZEROMEAN_CACHE"
MEMORY_VARIABLE = "ZEROMEAN_IMAGE_MEMORY"
# Share of the free memory that images may take. All processes share the file of larger images,
# but each has its own copy of smaller ones.
MEMORY_SHARE = 1 / 8
# Number of images whose digests are verified when the file is opened.
VERIFIED_IMAGES = 64
WRITE_BATCH_BYTES = 2**23
IMAGES, INDEX = "images.arrow", "index.json"
Found = tuple["DiskImages", tuple[tuple[str, str], ...], np.ndarray]


def images_in_memory() -> float:
    """Return how many bytes of images a process may keep in memory.

    Raises:
        ZeromeanError: ``ZEROMEAN_IMAGE_MEMORY`` is not a number of gigabytes.
    """
    text = os.environ.get(MEMORY_VARIABLE)
    if not text:
        return float(psutil.virtual_memory().available * MEMORY_SHARE)
    with suppress(ValueError):
        if (gigabytes := float(text)) >= 0:
            return gigabytes * 1e9
    raise ZeromeanError(
        f"{MEMORY_VARIABLE}={text} is not a number of gigabytes, 0 or more", "Correct or unset it"
    )


def _record_type(channels: int) -> np.dtype[Any]:
    """Return the type of an image's record, with which later runs need not read the pixels."""
    sums = (np.int64, channels)
    return np.dtype([("digest", np.uint8, 32), ("sum", *sums), ("squares", *sums), ("group", "i4")])


def _record(pixels: np.ndarray, group: int) -> bytes:
    counts = np.stack([np.bincount(one.ravel(), minlength=256) for one in pixels])
    record = np.zeros((), _record_type(len(pixels)))
    record["digest"] = np.frombuffer(hashlib.sha256(pixels.data).digest(), np.uint8)
    record["sum"], record["squares"] = counts @ np.arange(256), counts @ np.arange(256) ** 2
    record["group"] = group
    return record.tobytes()


class DiskImages:
    """Images in a file, with the part of a tensor's interface that studies use.

    Indexing selects images without reading them; :meth:`batches` and :meth:`split` read.

    Args:
        table: ``datasets.Dataset`` in Arrow format with a column ``pixels``.
        records: Record of each image, of ``_record_type``.
        shape: Shape of each image, (channels, height, width).
        rows: Selected rows, in order; None for all.
        device: Device that batches are copied to.
    """

    dtype = torch.uint8

    def __init__(
        self,
        table: Any,
        records: np.ndarray,
        shape: tuple[int, ...],
        rows: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._table, self._records, self._shape = table, records, shape
        self._rows = torch.arange(len(records)) if rows is None else rows
        self.device = device or torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self._rows), *self._shape])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | np.ndarray | Tensor) -> DiskImages:
        rows = self._rows[index]
        return DiskImages(self._table, self._records, self._shape, rows, self.device)

    def to(self, device: torch.device) -> DiskImages:
        """Return the same images, whose batches are copied to another device."""
        return DiskImages(self._table, self._records, self._shape, self._rows, device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Iterate over all images in order, ``size`` at a time."""
        return self.batches(torch.split(torch.arange(len(self)), size))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Iterate over batches, reading one batch ahead and copying without synchronization.

        Args:
            order: Indices of each batch, on the CPU.
        """
        with ThreadPoolExecutor(1) as reader:
            reads = (reader.submit(self._read, indices) for indices in order)
            ahead = next(reads, None)
            while ahead is not None:
                due, ahead = ahead, next(reads, None)
                yield due.result().to(self.device, non_blocking=True)

    def _read(self, indices: Tensor) -> Tensor:
        import pyarrow

        rows = self._rows[indices].tolist()
        column = self._table[rows].column("pixels")
        gathered = column.combine_chunks()
        size = len(rows) * math.prod(self._shape)
        start = gathered.offset * math.prod(self._shape)
        pixels = gathered.buffers()[1].slice(start, size)
        read = torch.utils.dlpack.from_dlpack(
            pyarrow.Array.from_buffers(pyarrow.uint8(), size, [None, pixels])
        )
        if column.num_chunks < 2:  # Not copied: still the file, which must not be written to.
            read = read.clone()
        if self.device.type == "cuda":  # Copies from other memory would synchronize.
            read = read.pin_memory()
        return read.view(-1, *self._shape)

    @property
    def digests(self) -> np.ndarray:
        """SHA-256 of each image, of shape (N, 32)."""
        digests: np.ndarray = self._records["digest"][self._rows.numpy()]
        return digests

    def channel_sums(self) -> tuple[Tensor, Tensor]:
        """Return the sums of all values and of their squares, each of shape (channels,)."""
        rows = self._records[self._rows.numpy()]
        total, squares = (torch.from_numpy(rows[name].sum(0)) for name in ("sum", "squares"))
        return total.to(self.device), squares.to(self.device)


Images = Tensor | DiskImages


def split(images: Images, size: int) -> Iterable[Tensor]:
    """Iterate over all images in order on their device, ``size`` at a time."""
    return images.split(size) if isinstance(images, DiskImages) else torch.split(images, size)


def digests(images: Images) -> np.ndarray:
    """Return the SHA-256 of each image, of shape (N, 32): the same in memory and on disk."""
    if isinstance(images, DiskImages):
        return images.digests
    found = [hashlib.sha256(one.data).digest() for one in images.cpu().contiguous().numpy()]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


class ImageCache:
    """A folder with the decoded images of one data set under one transform.

    Args:
        name: Data set as the user named it.
        transform: Description of the transform.
        fingerprint: Text that changes whenever a file of the data set changes.
    """

    def __init__(self, name: str, transform: str, fingerprint: str) -> None:
        self._name, self._fingerprint = name, fingerprint
        self._announced = False
        kind, _, path = name.partition(":")
        if Path(path).exists():
            path = str(Path(path).resolve())
        identity = f"{kind}:{path} {transform}".encode(errors="surrogateescape")
        readable = "".join(one if one.isalnum() else "-" for one in Path(path).name)[:40]
        self._root = _cache_root()
        self._folder = self._root / f"{kind}-{readable}-{hashlib.sha256(identity).hexdigest()[:12]}"

    def find(self) -> Found | None:
        """Return the cached images; None if they are missing, outdated or damaged."""
        # Missing and damaged files raise errors of many types.
        with suppress(Exception):
            index = json.loads((self._folder / INDEX).read_bytes())
            checksum = index.pop("checksum")
            file = self._folder / IMAGES
            expected = [self._fingerprint, file.stat().st_size]
            if [index["fingerprint"], index["size"]] != expected:
                return None
            table = self._datasets().Dataset.from_file(str(file))
            shape = tuple(index["shape"])
            column = table.data.column("record").combine_chunks()
            kind = _record_type(shape[0])
            records = np.frombuffer(column.buffers()[1], kind, len(table)).copy()
            about = json.dumps(index).encode()
            if hashlib.sha256(records.tobytes() + about).hexdigest() != checksum:
                return None
            images = DiskImages(table.with_format("arrow", columns=["pixels"]), records, shape)
            some = np.linspace(0, len(table) - 1, min(len(table), VERIFIED_IMAGES), dtype=int)
            found = np.concatenate([digests(batch) for batch in images[some].split(4)])
            if np.array_equal(found, records["digest"][some]):
                groups = tuple((part, label) for part, label in index["groups"])
                return images, groups, records["group"]
        return None

    def write(
        self,
        rows: Iterator[tuple[np.ndarray, int]],
        shape: tuple[int, ...],
        count: int,
        groups: dict[tuple[str, str], int],
    ) -> Found:
        """Write images into the cache; one process writes while others wait for it.

        Args:
            rows: Pixels and index of the group of each image.
            shape: Shape of each image, (channels, height, width).
            count: Number of images.
            groups: Index of each group, complete once all rows were read.

        Raises:
            ZeromeanError: The folder cannot be written to or has too little room.
        """
        self._datasets()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._root / f"{self._folder.name}.lock"):
                if (found := self.find()) is None:
                    with self._new_folder() as folder, (folder / IMAGES).open("wb") as file:
                        checksum = self._write_arrow(file, rows, shape, count)
                        _sync(file)
                        about = {
                            "fingerprint": self._fingerprint,
                            "size": file.tell(),
                            "shape": shape,
                            "groups": [*groups],
                        }
                        checksum.update(json.dumps(about).encode())
                        about["checksum"] = checksum.hexdigest()
                        with (folder / INDEX).open("wb") as index:
                            index.write(json.dumps(about).encode())
                            _sync(index)
                    found = self.find()
                if found is None:
                    raise OSError("the written images cannot be read back")
                return found
        except OSError as error:
            raise ZeromeanError(
                f"The images of {self._name} exceed the memory limit, but {self._root} cannot be"
                f" written to ({error})",
                f"Set {CACHE_VARIABLE} to a folder with enough room",
            ) from error

    @contextmanager
    def _new_folder(self) -> Iterator[Path]:
        """Yield a new folder, which replaces the current one once it is complete."""
        partial = self._folder.with_name(f"{self._folder.name}.partial")
        # Outdated, or left by a process that was killed.
        for old in (self._folder, partial):
            if old.exists():
                shutil.rmtree(old)
        partial.mkdir()
        if not self._announced:
            notice = f"zeromean: decoding {self._name} into {self._folder}, once for all runs"
            print(notice, file=sys.stderr, flush=True)
            self._announced = True
        try:
            yield partial
            partial.rename(self._folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _write_arrow(
        self,
        file: BinaryIO,
        rows: Iterator[tuple[np.ndarray, int]],
        shape: tuple[int, ...],
        count: int,
    ) -> hashlib._Hash:
        """Write the images with their records, and return the SHA-256 of the records."""
        import pyarrow

        size, written, checksum = math.prod(shape), 0, hashlib.sha256()
        types = [pyarrow.binary(size), pyarrow.binary(_record_type(shape[0]).itemsize)]
        schema = pyarrow.schema(list(zip(("pixels", "record"), types, strict=True)))
        with pyarrow.ipc.new_stream(file, schema) as writer:
            while batch := list(islice(rows, max(1, WRITE_BATCH_BYTES // size))):
                self._check_room(count * size, written * size)
                pixels = np.stack([one for one, _ in batch])
                records = b"".join(_record(*row) for row in batch)
                arrays = [
                    pyarrow.Array.from_buffers(kind, len(batch), [None, pyarrow.py_buffer(data)])
                    for kind, data in zip(types, (pixels, records), strict=True)
                ]
                writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
                written += len(batch)
                checksum.update(records)
        return checksum

    def _check_room(self, total: int, written: int) -> None:
        free = shutil.disk_usage(self._root).free
        if free < total - written:
            raise ZeromeanError(
                f"The images of {self._name} exceed the memory limit and take"
                f" {total / 1e9:.3g} GB, but {self._root} has room for"
                f" {(free + written) / 1e9:.3g} GB",
                f"Free disk space, or set {CACHE_VARIABLE} to a folder on a larger disk",
            )

    def _datasets(self) -> Any:
        with needs_extra("hub", f"{self._name}, whose images exceed the memory limit,"):
            import datasets

        return datasets


def _cache_root() -> Path:
    root = os.environ.get(CACHE_VARIABLE)
    if not root:
        return platformdirs.user_cache_path("zeromean", False)
    try:
        return Path(root).expanduser()
    except RuntimeError as error:  # an unknown user
        raise ZeromeanError(
            f"{CACHE_VARIABLE}={root} is not a folder", "Correct or unset it"
        ) from error


def _sync(file: BinaryIO) -> None:
    """Write the content to the disk, so that a power cut leaves no renamed but empty file."""
    file.flush()
    os.fsync(file.fileno())

"""Decoded images that are too large for memory: kept in a folder until the files change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import platformdirs
import psutil
from filelock import FileLock

from zeromean.errors import ZeromeanError
from zeromean.study.data.decoded import Decoded
from zeromean.study.data.disk_images import DiskImages, PixelFacts, digests, map_file

# Names of environment variables.
PLACE = "ZEROMEAN_CACHE"
MEMORY = "ZEROMEAN_IMAGE_MEMORY"
# Of the memory that is free: the files of those that do not fit are shared by all processes, each
# of which would have its own copy of those that do.
SHARE = 1 / 8
# Of the images, looked at when they are opened; the others are taken for what they were.
LOOKED_AT = 64
IMAGES, INDEX = "images.bin", "index.npz"
# Told how many bytes there will be and how many there are; raises where that cannot be.
Check = Callable[[int, int], None]


def images_in_memory() -> float:
    """How many bytes of images a process keeps in memory.

    Raises:
        ZeromeanError: The environment says nothing that can be used.
    """
    text = os.environ.get(MEMORY)
    if not text:
        return float(psutil.virtual_memory().available * SHARE)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise ZeromeanError(f"{MEMORY}={text}", "gigabytes, 0 or more", "mend or unset it")
    return gigabytes * 1e9


def _place() -> Path:
    root = os.environ.get(PLACE)
    if not root:
        return platformdirs.user_cache_path("zeromean", False)
    try:
        return Path(root).expanduser()
    except RuntimeError as error:  # of a user that there is not
        raise ZeromeanError(f"{PLACE}={root}", "a folder", "mend or unset it") from error


@dataclass(frozen=True)
class Written:
    """What is known of images that were written one after another.

    Args:
        shape: Channels, height and width of each.
        groups, group: As :class:`Decoded` has them.
        facts: Of all; None where nobody asked for them.
    """

    shape: tuple[int, ...]
    groups: tuple[tuple[str, str], ...]
    group: np.ndarray
    facts: PixelFacts | None


class Cache:
    """The place of one data set in one size.

    Args:
        name: How the user named the data, which with ``form`` tells them from all others.
        form: What is made of them.
        source: What changes as soon as their files do.
    """

    def __init__(self, name: str, form: str, source: str) -> None:
        self._name, self._source = name, source
        kind, _, path = name.partition(":")
        if Path(path).exists():
            path = str(Path(path).resolve())
        whole = f"{kind}:{path} {form}"
        own = hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()[:12]
        readable = "".join(one if one.isalnum() else "-" for one in Path(path).name)
        self._root = _place()
        self._folder = self._root / f"{kind}-{readable[:40]}-{own}"

    def find(self) -> Decoded | None:
        """What is kept of the very same files; None where that is nothing, or was damaged."""
        # What is raised of a damaged archive, which of its bytes decides, has no root of its own.
        with suppress(Exception):
            # Opened here: NumPy leaves a broken archive's file open.
            with (self._folder / INDEX).open("rb") as file, np.load(file) as index:
                if str(index["source"]) != self._source:
                    return None
                about = json.loads(str(index["about"]))
                group = index["group"]
                facts = PixelFacts(*(index[name] for name in PixelFacts._fields))
            images = map_file(self._folder / IMAGES, (len(group), *about["shape"]))
            some = np.linspace(0, len(group) - 1, min(len(group), LOOKED_AT), dtype=int)
            if np.array_equal(digests(images[some]), facts.digests[some]):
                groups = tuple((part, label) for part, label in about["groups"])
                return Decoded(DiskImages(images, facts), groups, group)
        return None

    def make(self, write: Callable[[BinaryIO, Check], Written]) -> Decoded:
        """Keeps what is written, from when all of it is; one process writes, others wait for it.

        Raises:
            ZeromeanError: The folder cannot be written to, or has too little room.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._root / f"{self._folder.name}.lock"):
                return self.find() or self._make(write)
        # What a file system without locks raises.
        except (OSError, NotImplementedError) as error:
            raise ZeromeanError(
                f"images of {self._name} that do not fit into memory, and {self._root}, which"
                f" cannot be written to ({error})",
                "a folder with room for them",
                f"set {PLACE} to one",
            ) from error

    def _make(self, write: Callable[[BinaryIO, Check], Written]) -> Decoded:
        begun = self._folder.with_name(f"{self._folder.name}.begun")
        # Of other files, or of a process that was killed.
        for old in (self._folder, begun):
            if old.exists():
                shutil.rmtree(old)
        begun.mkdir()
        print(
            f"zeromean: {self._name} is decoded once, into {self._folder}",
            file=sys.stderr,
            flush=True,
        )
        try:
            with (begun / IMAGES).open("wb") as images:
                written = write(images, self._check_room)
                _onto_disk(images)
            assert written.facts is not None
            about = {"shape": written.shape, "groups": written.groups}
            with (begun / INDEX).open("wb") as index:
                np.savez(
                    index,
                    source=np.array(self._source),
                    about=np.array(json.dumps(about)),
                    group=written.group,
                    **written.facts._asdict(),
                )
                _onto_disk(index)
            begun.rename(self._folder)
        except BaseException:
            shutil.rmtree(begun, ignore_errors=True)
            raise
        found = self.find()
        if found is None:
            raise OSError("what was written is not what is read")
        return found

    def _check_room(self, total: int, written: int) -> None:
        free = shutil.disk_usage(self._root).free
        if free < total - written:
            raise ZeromeanError(
                f"{_gigabytes(total)} or more of images of {self._name}, which do not fit into"
                f" memory, and {_gigabytes(free + written)} of room in {self._root}",
                "room for them",
                f"make room, or set {PLACE} to a folder on a larger disk",
            )


def _onto_disk(file: BinaryIO) -> None:
    """Lest a name outlive a power cut that its content does not."""
    file.flush()
    os.fsync(file.fileno())


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"

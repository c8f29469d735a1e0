"""Damaged files are read or refused with a `ZeromeanError`: no other error, no hang, no crash."""

from __future__ import annotations

import io
import os
import signal
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from study_files import patterns, write_cifar, write_idx, write_imagefolder, write_tar

from zeromean.errors import ZeromeanError
from zeromean.study.data import disk_images
from zeromean.study.data.disk_images import (
    CACHE_VARIABLE,
    IMAGES,
    INDEX,
    MEMORY_VARIABLE,
    DiskImages,
    split,
)
from zeromean.study.data.image_files import FORMATS
from zeromean.study.data.load import load_dataset

MUTATIONS = int(os.environ.get("ZEROMEAN_FUZZ", "1500"))
SECONDS = 20


class Target(NamedTuple):
    """A data set, one file of it, and how mutated content is packed into that file."""

    text: str
    file: Path
    content: bytes
    pack: Callable[[bytes], bytes] = bytes


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to three of its parts changed, mostly near the start."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        span = len(data) if rng.random() < 0.4 else min(len(data), 400)
        place = int(rng.integers(0, max(1, span)))
        match rng.integers(0, 7):
            case 0:
                data[place : place + 1] = bytes([rng.integers(0, 256)])
            case 1:
                data[place : place + 1] = (
                    bytes([data[place] ^ (1 << int(rng.integers(0, 8)))]) if data else b""
                )
            case 2:
                extreme = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)[rng.integers(0, 5)]
                data[place : place + 4] = struct.pack("<>"[rng.integers(0, 2)] + "I", extreme)
            case 3:
                del data[place:]
            case 4:
                del data[place : place + int(rng.integers(1, 40))]
            case 5:
                data[place:place] = rng.bytes(int(rng.integers(1, 40)))
            case _:
                start = int(rng.integers(0, max(1, len(data))))
                data[place:place] = data[start : start + int(rng.integers(1, 200))]
    return bytes(data)


def npz(folder: Path) -> Iterator[Target]:
    images, labels = patterns(30)
    file = folder / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(file, images=images, labels=labels)
        yield Target(f"npz:{file}", file, file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def pack(name: str) -> Callable[[bytes], bytes]:
        def packed(content: bytes) -> bytes:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for member, own in {**members, name: content}.items():
                    archive.writestr(member, own)
            return buffer.getvalue()

        return packed

    for name, content in members.items():
        yield Target(f"npz:{file}", file, content, pack(name))


def idx(folder: Path) -> Iterator[Target]:
    for suffix in ("", ".gz"):
        place = folder / f"idx{suffix}"
        write_idx(place, suffix)
        for kind in ("train-images-idx3", "t10k-labels-idx1"):
            file = place / f"{kind}-ubyte{suffix}"
            yield Target(f"idx:{place}", file, file.read_bytes())


def cifar(folder: Path) -> Iterator[Target]:
    write_cifar(folder)
    for name in ("test_batch", "batches.meta"):
        yield Target(f"cifar:{folder}", folder / name, (folder / name).read_bytes())


def svhn(folder: Path) -> Iterator[Target]:
    for packed in (False, True):
        for part in ("train", "test"):
            images, labels = patterns(20, classes=10, side=32)
            content = {
                "X": np.stack([images] * 3, axis=1).transpose(2, 3, 1, 0),
                "y": np.where(labels == 0, 10, labels)[:, None].astype(float),
            }
            savemat(folder / f"{part}_32x32.mat", content, do_compression=packed)
        file = folder / "train_32x32.mat"
        yield Target(f"svhn:{folder}", file, file.read_bytes())
    header, data = file.read_bytes()[:128], file.read_bytes()[128:]
    size = struct.unpack("<I", data[4:8])[0]
    inner, rest = zlib.decompress(data[8 : 8 + size]), data[8 + size :]

    def pack(content: bytes) -> bytes:
        compressed = zlib.compress(content)
        return header + struct.pack("<II", 15, len(compressed)) + compressed + rest

    yield Target(f"svhn:{folder}", file, inner, pack)


def with_png_checksums(content: bytes) -> bytes:
    """Correct the checksum of each chunk, so that the decoder sees what is inside."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        size = struct.unpack(">I", data[place : place + 4])[0]
        end = place + 8 + size
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


def few_images(folder: Path) -> Path:
    write_imagefolder(folder, color=True)
    for file in folder.rglob("*.png"):
        if int(file.stem) > 2:
            file.unlink()
    return folder


def images(folder: Path) -> Iterator[Target]:
    few_images(folder)
    file = folder / "train/dog/0001.png"
    picture, exif = Image.open(file).convert("RGB"), Image.Exif()
    exif[0x0112] = 3
    for kind in FORMATS:
        for mode in ("RGB", "L", "P"):
            buffer = io.BytesIO()
            if (kind, mode) in (("JPEG", "P"), ("PPM", "P"), ("WEBP", "P")):
                continue
            options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
            picture.convert(mode).save(buffer, kind, **options)  # type: ignore[arg-type]
            yield Target(f"imagefolder:{folder}", file, buffer.getvalue())
            if kind == "PNG":
                yield Target(f"imagefolder:{folder}", file, buffer.getvalue(), with_png_checksums)


def with_tar_checksums(content: bytes) -> bytes:
    """Correct the checksum of each header, so that the reader sees what is inside."""
    data = bytearray(content)
    for place in range(0, len(data) - 511, 512):
        if data[place + 257 : place + 262] == b"ustar":
            data[place + 148 : place + 156] = b" " * 8
            total = sum(data[place : place + 512])
            data[place + 148 : place + 156] = b"%06o\0 " % total
    return bytes(data)


def tar(folder: Path) -> Iterator[Target]:
    few_images(folder / "files")
    plain = write_tar(folder / "a.tar", folder / "files")
    yield Target(f"imagefolder:{plain}", plain, plain.read_bytes())
    yield Target(f"imagefolder:{plain}", plain, plain.read_bytes(), with_tar_checksums)
    for suffix in (".gz", ".xz", ".bz2"):
        packed = write_tar(folder / f"a.tar{suffix}", folder / "files")
        yield Target(f"imagefolder:{packed}", packed, packed.read_bytes())


class Hang(BaseException):
    """No answer in time; no handler of errors in a reader catches it."""


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [npz, idx, cifar, svhn, images, tar])
def test_mutated_files_are_read_or_refused(
    tmp_path: Path, make: Callable[[Path], Iterator[Target]]
) -> None:
    targets = []
    for target in make(tmp_path):
        targets.append(target)
        load_dataset(target.text)  # The file as it is, is valid.
    refused, failed = 0, []
    for seed in range(MUTATIONS):
        target, rng = targets[seed % len(targets)], np.random.default_rng(seed)
        before = target.file.read_bytes()
        target.file.write_bytes(target.pack(mutated(target.content, rng)))
        try:
            with no_hang():
                load_dataset(target.text)
        except ZeromeanError as error:
            refused += 1
            if "\n" in str(error):
                failed.append((seed, "more than one line"))
        except (Exception, Hang) as error:
            failed.append((seed, f"{type(error).__name__}: {error}"))
        target.file.write_bytes(before)
    print(f"{make.__name__}: {MUTATIONS} mutations, {refused} refused, {len(failed)} failed")
    assert not failed, failed[:20]
    assert refused > MUTATIONS / 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mutated_cache_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(MEMORY_VARIABLE, "0")
    # Waiting for a disk in use looks like a hang.
    monkeypatch.setattr(disk_images, "_sync", lambda file: file.flush())
    text = f"imagefolder:{few_images(tmp_path / 'files')}"

    def numbers() -> list[object]:
        data = load_dataset(text)
        parts = (data.train_images, data.test_images)
        pixels = [batch.tolist() for part in parts for batch in split(part, 3)]
        sums = [one.channel_sums()[1].tolist() for one in parts if isinstance(one, DiskImages)]
        labels = [data.train_labels.tolist(), data.test_labels.tolist(), data.classes]
        return [*pixels, *sums, *labels]

    expected = numbers()
    files = [next((tmp_path / "cache").glob(f"*/{name}")) for name in (IMAGES, INDEX)]
    contents = [file.read_bytes() for file in files]
    for seed in range(MUTATIONS):
        rng = np.random.default_rng(seed)
        changed = mutated(contents[seed % 2], rng)
        if seed % 4 == 0:  # The same size, which alone would reveal it.
            changed = changed[: len(contents[0])].ljust(len(contents[0]), b"\0")
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        files[seed % 2].write_bytes(changed)
        with no_hang():
            assert numbers() == expected, seed

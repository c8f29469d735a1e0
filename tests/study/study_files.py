"""Writes small data sets in the formats that the study reads, byte for byte as others do."""

from __future__ import annotations

import gzip
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

Arrays = tuple[np.ndarray, np.ndarray]


def patterns(count: int, classes: int = 3, side: int = 8, seed: int = 0) -> Arrays:
    """Noisy images with one bright row a class, and their labels; every class equally often."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, side, side), dtype=np.uint8)
    labels = np.arange(count) % classes
    images[np.arange(count), labels] += 100
    return images, labels


def write_npz(path: Path, seed: int = 0) -> Path:
    images, labels = patterns(60, seed=seed)
    np.savez_compressed(path, images=images, labels=labels, subjects=np.array(["a", "b", "c"]))
    return path


def write_idx_array(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_idx(folder: Path, suffix: str = "") -> dict[str, Arrays]:
    """The four files of an MNIST-like data set; returns what they hold, by `train` and `t10k`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": patterns(30), "t10k": patterns(12, seed=1)}
    for part, (images, labels) in parts.items():
        write_idx_array(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx_array(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
    return parts


def write_imagefolder(folder: Path, suffix: str = ".png", colour: bool = False) -> None:
    """`train/<class>/` and `test/<class>/` with the classes cat, dog and frog."""
    for part, (images, labels) in {"train": patterns(30), "test": patterns(12, seed=1)}.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / ("cat", "dog", "frog")[label]
            place.mkdir(parents=True, exist_ok=True)
            picture = np.stack([pixels, pixels // 2, pixels // 4], axis=2) if colour else pixels
            Image.fromarray(picture).save(place / f"{number:04d}{suffix}")


def write_tar(path: Path, folder: Path, inside: str = "") -> Path:
    """Packs `folder`, its content under `inside` in the archive."""
    mode = "w:" + {".xz": "xz", ".gz": "gz", ".bz2": "bz2", ".tar": ""}[path.suffix]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for part in ("train", "test"):
            archive.add(folder / part, arcname=f"{inside}{part}")
    return path

"""Measure how fast image files are decoded into the cache and batches are read from it.

    python benchmarks/large_images.py [--images 2000] [--folder DIR]

Writes JPEG files of 500x375 pixels, about 110 kB each, ImageNet's average. Batches are read while
the system has the file in memory, and once after it was asked to drop it, which measures the disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from zeromean.study.data.disk_images import CACHE_VARIABLE, IMAGES, MEMORY_VARIABLE, DiskImages
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.tasks.augment import ResizedCrop

BATCH = 256


def write_files(folder: Path, count: int) -> None:
    """Write images of two classes, a tenth of them for the test."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375)), np.int16)
        noisy = smooth + rng.normal(0, 20, smooth.shape)
        part = "test" if number % 10 == 0 else "train"
        file = folder / part / f"{number // 10 % 2}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=90)


def load(folder: Path) -> tuple[DiskImages, float]:
    """Return the training images and the seconds that loading took."""
    start = time.perf_counter()
    images = load_dataset(f"imagefolder:{folder}", ImageTransform(resize=256)).train_images
    assert isinstance(images, DiskImages)
    return images, time.perf_counter() - start


def images_per_second(images: DiskImages) -> float:
    """Read an epoch in random order."""
    count = len(images)
    order = torch.randperm(count)[: count - count % BATCH].view(-1, BATCH)
    start = time.perf_counter()
    for _ in images.batches(order):
        pass
    return order.numel() / (time.perf_counter() - start)


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000, help="number of images")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as temporary:
        files, cached = Path(temporary) / "files", Path(temporary) / "cache"
        write_files(files, arguments.images)
        os.environ |= {CACHE_VARIABLE: str(cached), MEMORY_VARIABLE: "0"}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        images, seconds = load(files)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
        print(f"decoded: {arguments.images / seconds:.0f} images/s, {os.cpu_count()} processors")
        print(f"memory grew by {grown:.0f} MB; the file has {arguments.images * 0.196608:.0f} MB")
        print(f"opened again: {load(files)[1]:.2f} s")
        print(f"read from memory: {images_per_second(images):.0f} images/s")
        if hasattr(os, "posix_fadvise"):
            del images
            (file,) = cached.glob(f"*/{IMAGES}")
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            images, _ = load(files)
            print(f"read from the disk: {images_per_second(images):.0f} images/s")
        (batch,) = images.batches([torch.arange(BATCH)])
        crop, generator, times = ResizedCrop(224), torch.Generator(), []
        for _ in range(5):
            start = time.perf_counter()
            crop(batch, generator)
            times.append(time.perf_counter() - start)
        print(f"random crops: {BATCH / statistics.median(times):.0f} images/s on the CPU")


if __name__ == "__main__":
    main()

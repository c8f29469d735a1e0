"""How fast image files are decoded into a file, and batches read from it.

    python benchmarks/large_images.py [--images 2000] [--folder DIR]

Files are JPEGs of 500x375 pixels, about 110 kB each, as ImageNet's are on average. Batches are read
while the system still holds the file in memory, which is the best case, and once after it was asked
to forget it, which is a disk's.
"""

from __future__ import annotations

import argparse
import os
import resource
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
SIZE = ImageTransform(resize=256)


def write(folder: Path, count: int) -> None:
    """Noise on coarse shapes, in two classes, a tenth of it for the test."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375)), np.int16)
        noisy = smooth + rng.normal(0, 20, smooth.shape)
        place = folder / ("test" if number % 10 == 0 else "train") / f"{number // 10 % 2}"
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(place / f"{number:06d}.jpg", quality=90)


def per_second(images: DiskImages, count: int) -> float:
    """Images that are read, in the order of one epoch."""
    order = torch.randperm(len(images))[: count - count % BATCH].view(-1, BATCH)
    started = time.perf_counter()
    for _ in images.batches(order):
        pass
    return order.numel() / (time.perf_counter() - started)


def main() -> None:
    """Measure one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="on the disk in question")
    chosen = parser.parse_args()
    with TemporaryDirectory(dir=chosen.folder) as place:
        folder = Path(place)
        write(folder / "files", chosen.images)
        mean = sum(one.stat().st_size for one in folder.rglob("*.jpg")) / chosen.images
        print(f"{chosen.images} files of {mean / 1e3:.0f} kB on average")
        os.environ |= {CACHE_VARIABLE: str(folder / "cache"), MEMORY_VARIABLE: "0"}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        images = load_dataset(f"imagefolder:{folder / 'files'}", SIZE).train_images
        seconds = time.perf_counter() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
        assert isinstance(images, DiskImages)
        print(f"decoded: {chosen.images / seconds:.0f} images/s, {os.cpu_count()} processors")
        print(f"memory grew by {grown:.0f} MB; the file has {chosen.images * 0.196608:.0f} MB")
        started = time.perf_counter()
        load_dataset(f"imagefolder:{folder / 'files'}", SIZE)
        print(f"opened again: {time.perf_counter() - started:.2f} s")
        print(f"read from memory: {per_second(images, len(images)):.0f} images/s")
        if hasattr(os, "posix_fadvise"):
            (file,) = (folder / "cache").glob(f"*/{IMAGES}")
            del images
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            images = load_dataset(f"imagefolder:{folder / 'files'}", SIZE).train_images
            assert isinstance(images, DiskImages)
            print(f"read from the disk: {per_second(images, len(images)):.0f} images/s")
        (batch,) = images.batches([torch.arange(BATCH)])
        crop, generator = ResizedCrop(224), torch.Generator()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            crop(batch, generator)
            times.append(time.perf_counter() - started)
        print(f"random crops: {BATCH / sorted(times)[2]:.0f} images/s, on the processor")


if __name__ == "__main__":
    main()

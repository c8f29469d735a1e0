"""Write small data sets in the formats that the study reads, byte for byte as others do."""

from __future__ import annotations

import gzip
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

Arrays = tuple[np.ndarray, np.ndarray]


def patterns(count: int, classes: int = 3, side: int = 8, seed: int = 0) -> Arrays:
    """Noisy images with one bright row per class, and their labels; every class equally often."""
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


def write_imagefolder(folder: Path, suffix: str = ".png", color: bool = False) -> None:
    """`train/<class>/` and `test/<class>/` with the classes cat, dog and frog."""
    for part, (images, labels) in {"train": patterns(30), "test": patterns(12, seed=1)}.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / ("cat", "dog", "frog")[label]
            place.mkdir(parents=True, exist_ok=True)
            picture = np.stack([pixels, pixels // 2, pixels // 4], axis=2) if color else pixels
            Image.fromarray(picture).save(place / f"{number:04d}{suffix}")


def write_pictures(folder: Path) -> Path:
    """Write a folder like ImageNet's: JPEGs of all sizes, all but the first colored."""
    rng = np.random.default_rng(0)
    for part, (images, labels) in {"train": patterns(48), "val": patterns(12, seed=1)}.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / ("n01", "n02", "n03")[label]
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.stack([pixels, pixels // 2, 255 - pixels], axis=2))
            picture = picture.resize(tuple(rng.integers(20, 40, 2)))
            picture.save(place / f"{number:04d}.JPEG", quality=95)
    Image.new("L", (30, 20), 99).save(folder / "train" / "n01" / "0000.JPEG")
    return folder


def added(files: Path) -> None:
    shutil.copy(files / "train/n01/0003.JPEG", files / "train/n01/0004.JPEG")


def removed(files: Path) -> None:
    (files / "train/n01/0003.JPEG").unlink()


def renamed(files: Path) -> None:
    (files / "train/n01/0003.JPEG").rename(files / "train/n02/0003.JPEG")


def rewritten(files: Path) -> None:
    file = files / "train/n01/0003.JPEG"
    Image.open(file).rotate(180).save(file, quality=95)


# Ways to change what `write_pictures` wrote.
CHANGES = (added, removed, renamed, rewritten)


def write_tar(
    path: Path, folder: Path, inside: str = "", parts: tuple[str, ...] = ("train", "test")
) -> Path:
    """Pack the parts of `folder` into an archive, below `inside`."""
    mode = "w:" + {".xz": "xz", ".gz": "gz", ".bz2": "bz2", ".tar": ""}[path.suffix]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for part in parts:
            archive.add(folder / part, arcname=f"{inside}{part}")
    return path


def python2_pickle(content: object) -> bytes:
    """Return a pickle as Python 2 writes it by protocol 2, as for the published CIFAR files."""

    def written(value: object) -> bytes:
        if isinstance(value, dict):
            items = b"".join(written(key) + written(one) for key, one in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(written, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(written, value)) + b"t"
        if isinstance(value, bool) or value is None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, str):
            return written(value.encode("latin-1"))
        if isinstance(value, bytes):
            return b"T" + struct.pack("<i", len(value)) + value
        assert isinstance(value, np.ndarray)
        kind = b"cnumpy\ndtype\n" + written((value.dtype.str[1:], 0, 1)) + b"R"
        kind += written((3, "|", None, None, None, -1, -1, 0)) + b"b"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + written((0,))
        made += written("b") + b"tR"
        state = b"(" + written(1) + written(value.shape) + kind + written(False)
        return made + state + written(value.tobytes()) + b"tb"

    return b"\x80\x02" + written(content) + b"."


def write_cifar(folder: Path, classes: int = 10, each: int = 20) -> dict[str, Arrays]:
    """The files of CIFAR-10, or of CIFAR-100; returns what they hold, by `train` and `test`."""
    folder.mkdir(parents=True, exist_ok=True)
    hundred = classes == 100
    files = ["train"] if hundred else [f"data_batch_{number}" for number in range(1, 6)]
    parts: dict[str, list[Arrays]] = {"train": [], "test": []}
    for seed, name in enumerate([*files, "test" if hundred else "test_batch"]):
        gray, labels = _many_classes(max(each, classes), classes, seed)
        images = np.stack([gray, gray // 2, gray // 4], axis=1)
        key = "fine_labels" if hundred else "labels"
        content = {
            "batch_label": name,
            key: labels.tolist(),
            "data": images.reshape(len(images), -1),
            "filenames": [f"{number}.png" for number in range(len(images))],
        }
        if hundred:
            content["coarse_labels"] = (labels // 5).tolist()
        (folder / name).write_bytes(python2_pickle(content))
        parts["train" if name in files else "test"].append((images, labels))
    names = [f"class {number}" for number in range(classes)]
    meta = {"fine_label_names" if hundred else "label_names": names}
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(python2_pickle(meta))
    return {
        part: (np.concatenate([one[0] for one in many]), np.concatenate([one[1] for one in many]))
        for part, many in parts.items()
    }


def _many_classes(count: int, classes: int, seed: int) -> Arrays:
    """Return `patterns` with one more bright pixel per class, for more classes than rows."""
    images, labels = patterns(count, min(classes, 32), side=32, seed=seed)
    labels = np.arange(count) % classes
    images[np.arange(count), labels % 32, labels // 32] = 255
    return images, labels


def write_miniimagenet(
    folder: Path, classes: dict[str, tuple[str, ...]], each: int = 12, side: int = 84
) -> None:
    """Tables that list the classes of each part, `each` images of every class, and the images."""
    (folder / "images").mkdir(parents=True)
    for number, (part, names) in enumerate(classes.items()):
        rows = ["filename,label"]
        for place, name in enumerate(names):
            pictures, _ = patterns(each, 1, side=side, seed=number)
            pictures[:, place] += 100
            for index, pixels in enumerate(pictures):
                file = f"{name}{number}{index:08d}.jpg"
                Image.fromarray(np.stack([pixels] * 3, axis=2)).save(folder / "images" / file)
                rows.append(f"{file},{name}")
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")

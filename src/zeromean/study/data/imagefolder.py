"""Image files in ``train/<class>/`` and ``test/<class>/``, in a folder or in a tar archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
PARTS = ("train", "test")
LAYOUT = f"images ({', '.join(SUFFIXES)}) in train/<class>/ and test/<class>/"
# First bytes of a file -> what opens it.
COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def read_imagefolder(path: Path) -> Dataset:
    """Reads a folder or a tar archive (plain, .gz, .bz2 or .xz) without unpacking it to disk.

    Files whose path ends otherwise than ``train/<class>/<image>`` or ``test/<class>/<image>`` are
    left alone. The images are decoded as RGB, or as one channel where all of them are grey.

    Raises:
        ZeromeanError: The path is missing, holds no such images, an image is broken or of another
            size than the first, or the classes of train and test differ.
    """
    name = f"imagefolder:{path}"
    if path.is_dir():
        files = _folder_files(path)
    elif path.is_file():
        files = _tar_files(path)
    else:
        raise ZeromeanError(
            f"{name}, which does not exist",
            f"a folder or a .tar archive of {LAYOUT}",
            "check the path",
        )
    images: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    labels: dict[str, list[str]] = {part: [] for part in PARTS}
    size: tuple[int, int] | None = None
    for member, content in files:
        pixels = _decode(f"{path}/{member}", content)
        if size is None:
            size = pixels.shape[:2]
        if pixels.shape[:2] != size:
            raise ZeromeanError(
                f"{path}/{member} of {pixels.shape[0]}x{pixels.shape[1]} pixels",
                f"{size[0]}x{size[1]} like the first image",
                "resize the images to one size",
            )
        part, label = member.parts[-3:-1]
        images[part].append(pixels)
        labels[part].append(label)
    for part in PARTS:
        if not images[part]:
            raise ZeromeanError(f"no {part} image in {name}", LAYOUT, "arrange the files so")
    classes = tuple(sorted({*labels["train"], *labels["test"]}))
    grey = all(pixels.ndim == 2 for part in PARTS for pixels in images[part])
    train_images, test_images = (_stack(images.pop(part), grey) for part in PARTS)
    index = {label: number for number, label in enumerate(classes)}
    train_labels, test_labels = (
        torch.tensor([index[label] for label in labels[part]]) for part in PARTS
    )
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=classes,
        split="the data set's own test folder",
    )


def _is_image(member: PurePosixPath) -> bool:
    return (
        len(member.parts) >= 3
        and member.parts[-3] in PARTS
        and member.suffix.lower() in SUFFIXES
        # Archives written on a Mac carry a hidden twin ._NAME of each file.
        and not member.name.startswith(".")
    )


def _folder_files(folder: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for file in sorted(folder.glob("*/*/*")):
        member = PurePosixPath(file.relative_to(folder).as_posix())
        if _is_image(member):
            try:
                yield member, file.read_bytes()
            except OSError as error:
                raise ZeromeanError(
                    f"unreadable {file} ({error})", LAYOUT, "mend the file"
                ) from error


def _tar_files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    wanted = f"a .tar archive of {LAYOUT}"
    try:
        # "r|" reads once from front to back: seeking in a compressed archive decompresses it anew.
        with _open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                member = PurePosixPath(entry.name)
                if entry.isfile() and _is_image(member):
                    content = archive.extractfile(entry)
                    assert content is not None  # a regular file always has content
                    yield member, content.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise ZeromeanError(
            f"unreadable {path} ({error})", wanted, "fetch the archive anew"
        ) from error


def _open(path: Path) -> io.BufferedIOBase:
    """The archive without its compression, which must not end early.

    ``tarfile`` takes the end of its input for the end of the archive, even in the middle of a
    header; images would go missing without a word. The decompressors raise where data end early;
    an archive that is not compressed has to end in the zeros that mark its end.
    """
    with path.open("rb") as file:
        start = file.read(max(map(len, COMPRESSIONS)))
        for magic, opener in COMPRESSIONS.items():
            if start.startswith(magic):
                return opener(path)
        file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
        if any(file.read()):
            raise tarfile.ReadError("it does not end as a tar archive ends")
    return path.open("rb")


def _decode(name: str, content: bytes) -> np.ndarray:
    """Bytes of shape (height, width) for a grey image, else (height, width, 3)."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    # Pillow's decoders raise SyntaxError and ValueError too on broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ZeromeanError(
            f"broken image {name}", "an image that can be decoded", "replace or remove the file"
        ) from error


def _stack(images: list[np.ndarray], grey: bool) -> torch.Tensor:
    """One tensor (N, channels, height, width); grey images among coloured ones become coloured."""
    height, width = images[0].shape[:2]
    stacked = torch.empty((len(images), 1 if grey else 3, height, width), dtype=torch.uint8)
    for slot, pixels in zip(stacked, images, strict=True):
        slot[:] = torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())
    return stacked

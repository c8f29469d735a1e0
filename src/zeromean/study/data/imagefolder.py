"""Image files in ``train/<class>/`` and ``test/<class>/``, in a folder or in a tar archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.fingerprint import Fingerprint
from zeromean.study.data.image_files import Album, ImageTransform, Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
# Without the first of them, the next takes its place.
TEST_PARTS = ("test", "val", "validation", "valid")
PARTS = ("train", *TEST_PARTS)
LAYOUT = f"images ({', '.join(SUFFIXES)}) in train/<class>/ and test/<class>/ (or val/<class>/)"
# First bytes of a file -> what opens it.
COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def read_imagefolder(path: Path, size: ImageTransform) -> Dataset:
    """Reads a folder or a tar archive (plain, .gz, .bz2 or .xz) without unpacking it to disk.

    Files whose path does not end in ``train/<class>/<image>`` or ``test/<class>/<image>`` are left
    alone; without a test folder, ``val``, ``validation`` or ``valid`` takes its place. The images
    are decoded as RGB, or as one channel where all of them are gray.

    Raises:
        ZeromeanError: The path is missing, holds no such images, an image is broken or of another
            size than the first, or the classes of train and test differ.
    """
    name = f"imagefolder:{path}"
    if path.is_dir():
        source = Fingerprint()
        for member, file in _folder_files(path):
            source.add(str(member), file)
        album = Album(name, size, source.digest, source.count, partial(_folder_pictures, path))
    elif path.is_file():
        source = Fingerprint()
        source.add("", path)
        album = Album(name, size, source.digest, None, partial(_tar_pictures, path))
    else:
        raise ZeromeanError(
            f"{name}, which does not exist",
            f"a folder or a .tar archive of {LAYOUT}",
            "check the path",
        )
    decoded = album.read()
    test = next((part for part in TEST_PARTS if part in decoded.parts), None)
    for part, found in (("train", "train" in decoded.parts), ("test", test)):
        if not found:
            raise ZeromeanError(f"no {part} image in {name}", LAYOUT, "arrange the files so")
    assert test is not None
    return decoded.dataset(name, test, f"the data set's own {test} folder")


def _is_image(member: PurePosixPath) -> bool:
    return (
        len(member.parts) >= 3
        and member.parts[-3] in PARTS
        and member.suffix.lower() in SUFFIXES
        # Archives written on a Mac carry a hidden twin ._NAME of each file.
        and not member.name.startswith(".")
    )


def _folder_pictures(folder: Path) -> Iterator[Picture]:
    for member, file in _folder_files(folder):
        part, label = member.parts[-3:-1]
        yield Picture(part, label, str(file), partial(_open_file, file))


def _folder_files(folder: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """One class after another: of millions of files, the names of one class are in memory."""
    for part in sorted(PARTS):
        for label in _names(folder / part):
            place = folder / part / label
            for name in _names(place):
                member = PurePosixPath(part, label, name)
                if _is_image(member):
                    yield member, place / name


def _names(folder: Path) -> list[str]:
    """In order; none where it is no folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _open_file(file: Path) -> Image.Image:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ZeromeanError(f"unreadable {file} ({error})", LAYOUT, "mend the file") from error
    return Image.open(io.BytesIO(content))


def _tar_pictures(path: Path) -> Iterator[Picture]:
    wanted = f"a .tar archive of {LAYOUT}"
    try:
        # "r|" reads once from front to back: seeking in a compressed archive decompresses it anew.
        with _open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                member = PurePosixPath(entry.name)
                if entry.isfile() and _is_image(member):
                    content = archive.extractfile(entry)
                    assert content is not None  # a regular file always has content
                    part, label = member.parts[-3:-1]
                    image = partial(Image.open, io.BytesIO(content.read()))
                    yield Picture(part, label, f"{path}/{member}", image)
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

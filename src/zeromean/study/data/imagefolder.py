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

from zeromean.errors import ZeromeanError
from zeromean.study.data.album import Album, Size
from zeromean.study.data.dataset import Dataset

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


def read_imagefolder(path: Path, size: Size) -> Dataset:
    """Reads a folder or a tar archive (plain, .gz, .bz2 or .xz) without unpacking it to disk.

    Files whose path does not end in ``train/<class>/<image>`` or ``test/<class>/<image>`` are left
    alone; without a test folder, ``val``, ``validation`` or ``valid`` takes its place. The images
    are decoded as RGB, or as one channel where all of them are grey.

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
    album = Album(name, size)
    for member, content in files:
        part, label = member.parts[-3:-1]
        album.add(part, label, f"{path}/{member}", content)
    test = next((part for part in TEST_PARTS if part in album.parts), None)
    for part, found in (("train", "train" in album.parts), ("test", test)):
        if not found:
            raise ZeromeanError(f"no {part} image in {name}", LAYOUT, "arrange the files so")
    assert test is not None
    return album.dataset(test, f"the data set's own {test} folder")


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

"""A reader of image files in one folder per class, in a folder or a tar archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path, PurePosixPath

from zeromean.errors import ZeromeanError, warn
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import (
    ImageFile,
    ImageSource,
    ImageTransform,
    check_file_size,
    fingerprint,
    is_hidden,
    is_image,
    load_images,
    read_file,
)
from zeromean.study.data.split import UnsplitDataset

# Folders of the test set, in order of preference.
TEST_PARTS = ("test", "val", "validation", "valid")
PARTS = ("train", *TEST_PARTS)
TEST_FRACTION = 0.2
LAYOUT = "train/<class>/ and test/<class>/ (or val/<class>/), or as <class>/"
# First bytes of a compressed file and the class that opens it.
COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def read_imagefolder(path: Path, transform: ImageTransform) -> Dataset | UnsplitDataset:
    """Read a folder or a tar archive (plain, .gz, .bz2 or .xz), without unpacking it to disk.

    Images are in ``train/<class>/`` and ``test/<class>/``; without a test folder, ``val``,
    ``validation`` or ``valid`` takes its place. Next to a test folder, these are ignored. Without
    any of these folders, the images are in ``<class>/`` and have no split. Other folders may
    enclose these, and a class may have subfolders. Hidden files are ignored; a warning counts all
    other files that are not read.

    Raises:
        ZeromeanError: The path is missing or holds no such images, or an image is broken or of
            another size than the first.
    """
    name = f"imagefolder:{path}"
    if path.is_dir():
        state = fingerprint((member, file) for member, file, regular in _walk(path) if regular)
        layout = _Layout(name, ((member, regular) for member, _, regular in _walk(path)))
        files = partial(_folder_files, path, layout)
    elif path.is_file():
        state = fingerprint([("", path)])
        layout = _Layout(name, _tar_names(path))
        files = partial(_tar_files, path, layout)
    else:
        raise ZeromeanError(f"{name} is not a folder or file", "Check the path")
    images = load_images(ImageSource(name, state, layout.count, files), transform)
    if layout.test is None:
        return images.unsplit(name, TEST_FRACTION)
    return images.dataset(name, layout.test, f"the data set's own {layout.test} folder")


class _Layout:
    """The positions of the part and the class in the paths of files.

    Args:
        name: Name of the data set, for messages.
        members: Path of each file, and whether it is a regular file.
    """

    def __init__(self, name: str, members: Iterable[tuple[str, bool]]) -> None:
        parts: Counter[str] = Counter()
        folders: set[tuple[str, ...]] = set()
        left_out: list[str] = []  # the first of each kind
        others, unsplit, first_unsplit = 0, 0, ""
        for path, regular in members:
            own = tuple(path.split("/")[:-1])
            if not (regular and own and is_image(path)):
                others += 1
                left_out = left_out or [path]
            elif (split := _split_label(own)) is not None:
                parts[split[0]] += 1
            else:
                unsplit += 1
                folders.add(own)
                first_unsplit = first_unsplit or path
        self.test = next((part for part in TEST_PARTS if part in parts), None)
        self._depth = 0
        if parts:
            if self.test is None or "train" not in parts:
                missing = "test" if "train" in parts else "train"
                raise ZeromeanError(f"{name} has no {missing} images", f"Arrange them as {LAYOUT}")
            self.count = parts["train"] + parts[self.test]
            others += unsplit
            left_out += [first_unsplit] if unsplit else []
        elif folders:
            self.count = unsplit
            # Folders that enclose all classes are not classes themselves.
            shared = takewhile(lambda level: len({*level}) == 1, zip(*folders, strict=False))
            self._depth = min(len([*shared]), *(len(own) - 1 for own in folders))
        else:
            raise ZeromeanError(f"{name} has no images", f"Arrange images as {LAYOUT}")
        if others:
            warn(
                f"{name}: {'1 file is' if others == 1 else f'{others} files are'} not read, such as"
                f" {left_out[0]}; only regular files with the suffix of an image, in the folder of"
                " a class, are read."
            )

    def label(self, path: str) -> tuple[str, str] | None:
        """Return the part (empty without a split) and the label; None if the file is not read."""
        folders = tuple(path.split("/")[:-1])
        if not (folders and is_image(path)):
            return None
        if self.test is None:
            return "", folders[self._depth]
        label = _split_label(folders)
        return label if label is not None and label[0] in ("train", self.test) else None


def _split_label(folders: tuple[str, ...]) -> tuple[str, str] | None:
    for part, label in pairwise(folders):
        if part in PARTS:
            return part, label
    return None


def _folder_files(folder: Path, layout: _Layout) -> Generator[ImageFile, None, None]:
    for member, file, regular in _walk(folder):
        if regular and (label := layout.label(member)) is not None:
            yield ImageFile(*label, str(file), partial(read_file, file))


def _walk(
    folder: Path, inside: str = "", above: tuple[Path, ...] = ()
) -> Iterator[tuple[str, Path, bool]]:
    """Yield each file's name inside the folder, its path, and whether it is a regular file."""
    real = folder.resolve()
    if real in above:  # circular links
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ZeromeanError(
            f"{folder} cannot be read ({error})", "Make the folder readable, or remove it"
        ) from error
    for entry in found:
        if is_hidden(entry.name):
            continue
        if _leads_to(entry.is_dir):
            yield from _walk(Path(entry.path), f"{inside}{entry.name}/", (*above, real))
        else:
            yield f"{inside}{entry.name}", Path(entry.path), _leads_to(entry.is_file)


def _leads_to(check: Callable[[], bool]) -> bool:
    """Return the result of a check of an entry; False for a link to itself, which raises."""
    try:
        return check()
    except OSError:
        return False


def _tar_names(path: Path) -> Iterator[tuple[str, bool]]:
    for _, entry, name in _tar_entries(path):
        yield name, entry.isfile()


def _tar_files(path: Path, layout: _Layout) -> Generator[ImageFile, None, None]:
    for archive, entry, name in _tar_entries(path):
        if entry.isfile() and (label := layout.label(name)) is not None:
            full = f"{path}/{name}"
            check_file_size(full, entry.size)
            with _explain(path):
                content = archive.extractfile(entry)
                assert content is not None  # Regular files have content.
                image = content.read()
            yield ImageFile(*label, full, partial(bytes, image))


def _tar_entries(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, str]]:
    # "r|" reads once from front to back: seeking in a compressed archive restarts it.
    with _explain(path), _open(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for entry in archive:
            member = PurePosixPath(entry.name)
            if not entry.isdir() and not any(map(is_hidden, member.parts)):
                yield archive, entry, str(member).lstrip("/")


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    try:
        yield
    # Broken headers make tarfile raise ValueError, too.
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise ZeromeanError(
            f"{path} cannot be read as a tar archive ({error})", "Replace the archive"
        ) from error


def _open(path: Path) -> io.BufferedIOBase:
    """Open an archive for reading its decompressed content, and raise if it is truncated.

    ``tarfile`` takes the end of its input for the end of the archive, even in the middle of a
    header, so images would be missing without an error. The decompressors raise if data ends
    early; a plain archive must end in zeros.
    """
    with path.open("rb") as file:
        start = file.read(max(map(len, COMPRESSIONS)))
        for magic, opener in COMPRESSIONS.items():
            if start.startswith(magic):
                return opener(path)
        file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
        if any(file.read()):
            raise tarfile.ReadError("it does not end as a tar archive does")
    return path.open("rb")

"""Load the C library that was built with the package."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from pathlib import Path
from struct import Struct

import torch

from zeromean.errors import warn

# The layout of structures and functions that the callers assume: LAYOUT of centered.c.
LAYOUT = 3

# An ELF file's header, and the header of one of its segments.
_HEADER = Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = Struct("<IIQQQQQQ")


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the library that was built with the package, or None if there is none that fits."""
    path = _path()
    if not path.exists():
        return None
    library = _load(path)
    if library is None:
        return None
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    library.zeromean_step.argtypes = [*[word] * 4, *[pointer] * 5, word]
    library.zeromean_step.restype = None
    library.zeromean_use_threads_of.argtypes = [pointer]
    library.zeromean_use_threads_of.restype = None
    # Use the OpenMP runtime that torch is linked with. A second runtime would start threads that
    # torch.set_num_threads does not control.
    try:
        threads = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return library  # torch has no such runtime: one thread
    library.zeromean_use_threads_of(ctypes.cast(threads, pointer))
    return library


def _path() -> Path:
    return Path(__file__).with_name("centered.dll" if sys.platform == "win32" else "centered.so")


def _load(path: Path) -> ctypes.CDLL | None:
    """Load the library, or warn and return None if the file is damaged or of other sources."""
    try:
        _check_complete(path)
        library = ctypes.CDLL(str(path))
        library.zeromean_layout.restype = ctypes.c_int64
        layout = library.zeromean_layout()
        wrong = "" if layout == LAYOUT else f"its layout is {layout}, not {LAYOUT}"
    except OSError as error:  # for another machine, or incomplete
        wrong = str(error)
    except AttributeError:
        wrong = "it has no layout number"
    if not wrong:
        return library
    warn(
        f"{path.name} is damaged or was built from other sources ({wrong}), so the slower reference"
        " is used; reinstall zeromean, in a checkout by make test or pip install --editable ."
    )
    return None


def _check_complete(path: Path) -> None:
    """Raise OSError if an ELF file ends before its segments do.

    The loader maps such a file, and reading past its end kills the process. Other formats are left
    to their loaders, which check this themselves.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return
    ends = [_HEADER.size]
    if len(data) >= _HEADER.size:
        header = _HEADER.unpack_from(data)
        start, sections, (size, count, section, section_count) = header[5], header[6], header[9:13]
        ends += [start + size * count, sections + section * section_count]
        if len(data) >= ends[1]:
            for index in range(count):
                segment = _SEGMENT.unpack_from(data, start + size * index)
                ends.append(segment[2] + segment[5])
    if max(ends) > len(data):
        raise OSError(f"it has {len(data)} of {max(ends)} bytes")

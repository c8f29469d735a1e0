"""From the text after ``--data`` to a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.digits import read_digits
from zeromean.study.data.huggingface import read_huggingface
from zeromean.study.data.idx import read_idx
from zeromean.study.data.imagefolder import read_imagefolder
from zeromean.study.data.npz import read_npz
from zeromean.study.data.svhn import read_svhn

READERS: dict[str, Callable[[Path], Dataset]] = {
    "idx": read_idx,
    "npz": read_npz,
    "imagefolder": read_imagefolder,
    "svhn": read_svhn,
    "hf": read_huggingface,
}


def load(text: str) -> Dataset:
    """Reads the data set that ``text`` names.

    Args:
        text: ``digits``, ``idx:DIR``, ``npz:FILE``, ``imagefolder:DIR`` (or a tar archive),
            ``svhn:DIR``, or ``hf:NAME`` or ``hf:DIR`` of Hugging Face's datasets.

    Raises:
        ZeromeanError: The text has another form, or the reader refuses what it finds.

    Example:
        >>> load("digits").describe()
        '898 train and 899 test images, 8x8x1, 10 classes'
    """
    if text == "digits":
        return read_digits()
    kind, _, path = text.partition(":")
    if kind not in READERS or not path:
        raise ZeromeanError(
            f"data {text!r}",
            "digits, idx:DIR, npz:FILE, imagefolder:DIR[.tar.xz], svhn:DIR or hf:NAME",
            "name the format, a colon and the path",
        )
    try:
        return READERS[kind](Path(path))
    except OSError as error:
        raise ZeromeanError(
            f"data {text!r}, which cannot be read ({error})", "readable files", "check the path"
        ) from error

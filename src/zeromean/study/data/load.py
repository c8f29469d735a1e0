"""From the text after ``--data`` to a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.data.cifar import read_cifar
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.digits import read_digits
from zeromean.study.data.huggingface import read_huggingface
from zeromean.study.data.idx import read_idx
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.imagefolder import read_imagefolder
from zeromean.study.data.miniimagenet import read_miniimagenet
from zeromean.study.data.npz import read_npz
from zeromean.study.data.split import USUAL, SplitSpec, UnsplitDataset
from zeromean.study.data.svhn import read_svhn
from zeromean.study.settings import SettingError

# Of images that come in one size.
READERS: dict[str, Callable[[Path], Dataset | UnsplitDataset]] = {
    "idx": read_idx,
    "npz": read_npz,
    "cifar": read_cifar,
    "svhn": read_svhn,
}
# Of image files, each of which may have a size of its own.
FILE_READERS: dict[str, Callable[[Path, ImageTransform], Dataset]] = {
    "imagefolder": read_imagefolder,
    "miniimagenet": read_miniimagenet,
    "hf": read_huggingface,
}
AS_THEY_ARE = ImageTransform()


def load_dataset(text: str, size: ImageTransform = AS_THEY_ARE) -> Dataset:
    """Reads the data set that ``text`` names, divided as usual where it has no test set.

    The arguments are those of :func:`read_dataset`.

    Example:
        >>> load_dataset("digits").describe()
        '898 train and 899 test images, 8x8x1, 10 classes'
    """
    return split_dataset(read_dataset(text, size), USUAL)


def split_dataset(data: Dataset | UnsplitDataset, division: SplitSpec) -> Dataset:
    """The data with a test set, which some bring along.

    Raises:
        ZeromeanError: It brings one along and is to be divided in another way, or cannot be.
    """
    if isinstance(data, UnsplitDataset):
        return data.divide(division)
    if division != USUAL:
        raise SettingError(
            "test_per_class" if division.per_class is not None else "split",
            f"test_per_class or split with {data.name}, which has a test set of its own",
            "data without one: digits, or an npz:FILE with images and labels",
            "leave both out",
            "pass such data",
        )
    return data


def reads_image_files(text: str) -> bool:
    """Whether what ``text`` names are image files, brought to any size."""
    return text.partition(":")[0] in FILE_READERS


def read_dataset(text: str, size: ImageTransform = AS_THEY_ARE) -> Dataset | UnsplitDataset:
    """Reads what ``text`` names.

    Args:
        text: ``digits``, ``idx:DIR``, ``npz:FILE``, ``cifar:DIR``, ``svhn:DIR``,
            ``imagefolder:DIR`` (or a tar archive), ``miniimagenet:DIR``, or ``hf:NAME`` or
            ``hf:DIR`` of Hugging Face's datasets.
        size: What image files are brought to; of the last three alone; see
            :func:`reads_image_files`.

    Raises:
        ZeromeanError: The text has another form, or the reader refuses what it finds.
    """
    kind, _, path = text.partition(":")
    if text != "digits" and (kind not in {**READERS, **FILE_READERS} or not path):
        raise ZeromeanError(
            f"data {text!r}",
            "digits, idx:DIR, npz:FILE, cifar:DIR, svhn:DIR, imagefolder:DIR[.tar.xz],"
            " miniimagenet:DIR or hf:NAME",
            "name the format, a colon and the path",
        )
    if kind not in FILE_READERS and not size.says_nothing:
        raise SettingError(
            "resize" if size.resize is not None else "crop",
            f"resize or crop with {text}, whose images come in one size",
            f"image files, as {', '.join(FILE_READERS)} read them",
            "leave both out",
            "pass such files",
        )
    if text == "digits":
        return read_digits()
    try:
        if kind in FILE_READERS:
            return FILE_READERS[kind](Path(path), size)
        return READERS[kind](Path(path))
    except OSError as error:
        raise ZeromeanError(
            f"data {text!r}, which cannot be read ({error})", "readable files", "check the path"
        ) from error

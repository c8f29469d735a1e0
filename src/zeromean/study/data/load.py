"""Load the data set that a string such as ``npz:FILE`` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.data.cifar import read_cifar
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.digits import read_digits
from zeromean.study.data.huggingface import read_huggingface
from zeromean.study.data.idx import read_idx
from zeromean.study.data.image_files import UNCHANGED, ImageTransform
from zeromean.study.data.imagefolder import read_imagefolder
from zeromean.study.data.miniimagenet import read_miniimagenet
from zeromean.study.data.npz import read_npz
from zeromean.study.data.split import DEFAULT_SPLIT, SplitSpec, UnsplitDataset
from zeromean.study.data.svhn import read_svhn
from zeromean.study.spec.validation import SettingError

# Formats whose images have one size.
READERS: dict[str, Callable[[Path], Dataset | UnsplitDataset]] = {
    "idx": read_idx,
    "npz": read_npz,
    "cifar": read_cifar,
    "svhn": read_svhn,
}
# Formats of image files, which may have different sizes.
FILE_READERS: dict[str, Callable[[Path, ImageTransform], Dataset | UnsplitDataset]] = {
    "imagefolder": read_imagefolder,
    "miniimagenet": read_miniimagenet,
    "hf": read_huggingface,
}


def load_dataset(
    text: str, transform: ImageTransform = UNCHANGED, split: SplitSpec = DEFAULT_SPLIT
) -> Dataset:
    """Read a data set and split it if it has no test set.

    Args:
        text: ``digits``, ``idx:DIR``, ``npz:FILE``, ``cifar:DIR``, ``svhn:DIR``,
            ``imagefolder:DIR`` (or a tar archive), ``miniimagenet:DIR``, ``hf:NAME`` or ``hf:DIR``.
        transform: Transformation of image files to one size; see :func:`reads_image_files`.
        split: Choice of the test set for data that has none.

    Raises:
        ZeromeanError: The text has another form, the data cannot be read, or an option does not
            apply to the data.

    Example:
        >>> load_dataset("digits").describe()
        '898 train and 899 test images, 8x8x1, 10 classes'
    """
    return split_dataset(read_dataset(text, transform), split)


def reads_image_files(text: str) -> bool:
    """Return whether ``text`` names image files, to which an :class:`ImageTransform` applies."""
    return text.partition(":")[0] in FILE_READERS


def read_dataset(text: str, transform: ImageTransform = UNCHANGED) -> Dataset | UnsplitDataset:
    """Read a data set, with or without a test set; for the arguments see :func:`load_dataset`."""
    kind, _, path = text.partition(":")
    if text != "digits" and (kind not in {**READERS, **FILE_READERS} or not path or "\0" in path):
        raise ZeromeanError(
            f"data={text!r} is not one of digits, idx:DIR, npz:FILE, cifar:DIR, svhn:DIR,"
            " imagefolder:DIR, imagefolder:FILE.tar, miniimagenet:DIR, hf:NAME, hf:DIR",
            "Write the format, a colon and the path",
        )
    if kind not in FILE_READERS and transform != UNCHANGED:
        raise SettingError(
            "crop" if transform.resize is None else "resize",
            f"resize and crop do not apply to {text}; they apply to image files"
            f" ({', '.join(FILE_READERS)})",
            "Leave them out",
            instead="Pass image files",
        )
    if text == "digits":
        return read_digits()
    try:
        if kind in FILE_READERS:
            return FILE_READERS[kind](Path(path), transform)
        return READERS[kind](Path(path))
    except (OSError, MemoryError) as error:
        raise ZeromeanError(
            f"data={text!r} cannot be read ({type(error).__name__}: {error})", "Check the path"
        ) from error


def split_dataset(data: Dataset | UnsplitDataset, spec: SplitSpec) -> Dataset:
    """Return data with a test set.

    Raises:
        ZeromeanError: The data has its own test set but a split is given, or cannot be split.
    """
    if isinstance(data, UnsplitDataset):
        return data.divide(spec)
    if spec != DEFAULT_SPLIT:
        raise SettingError(
            "split" if spec.per_class is None else "test_per_class",
            f'test_per_class and split="seed" do not apply to {data.name}, which has its own test'
            " set",
            "Leave them out",
            instead="Use data without a test set",
        )
    return data

"""Readers of images of one size: what they return and what they refuse."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from sklearn.datasets import load_digits
from study_files import (
    Arrays,
    patterns,
    python2_pickle,
    write_cifar,
    write_idx,
    write_idx_array,
    write_npz,
)

from zeromean.errors import ZeromeanError
from zeromean.study.data import plain_pickle
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.data.plain_pickle import ByteArray

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers(0, 9), inner),
    max_leaves=8,
)


def sorted_images(*parts: object) -> list[bytes]:
    """Images as sorted bytes, to compare sets of images."""
    return sorted(image.numpy().tobytes() for part in parts for image in part)  # type: ignore[attr-defined]


def refused(text: str, problem: str) -> None:
    with pytest.raises(ZeromeanError, match=problem) as error:
        load_dataset(text)
    assert "\n" not in str(error.value)


def check_content(data: Dataset, train: Arrays, test: Arrays) -> None:
    """Compare a data set with its images, of shape (N, channels, ...) or (N, ...), and labels."""
    for images, labels, (pixels, classes) in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        np.testing.assert_array_equal(images, pixels if pixels.ndim == 4 else pixels[:, None])
        np.testing.assert_array_equal(labels, classes)


@pytest.mark.parametrize("text", ["mnist", "idx:", "zip:DIR", "npz:a\0b"])
def test_unknown_format_is_refused(text: str) -> None:
    refused(text, "is not one of digits, idx:DIR")


def test_path_too_long_for_the_system_is_refused() -> None:
    refused(f"npz:{'x' * 300}", "cannot be read .*File name too long|is not a file")


def test_transform_of_images_of_one_size_is_refused() -> None:
    with pytest.raises(ZeromeanError, match="resize and crop do not apply to digits"):
        load_dataset("digits", ImageTransform(resize=16))


def test_digits_are_scikit_learns_split_in_half_by_class() -> None:
    data = load_dataset("digits")
    whole = torch.from_numpy(load_digits().images.astype(np.uint8))[:, None]
    assert sorted_images(data.train_images, data.test_images) == sorted_images(whole)
    assert (data.train_labels.bincount() - data.test_labels.bincount()).abs().max() <= 1
    again = load_dataset("digits").test_images
    assert sorted_images(data.test_images) == sorted_images(again)


# IDX


@pytest.mark.parametrize("sign", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_returns_the_content_of_its_files(tmp_path: Path, suffix: str, sign: str) -> None:
    parts = write_idx(tmp_path, suffix)
    for file in [*tmp_path.iterdir()]:
        file.rename(tmp_path / file.name.replace("-idx", f"{sign}idx"))
    data = load_dataset(f"idx:{tmp_path}")
    check_content(data, *parts.values())
    assert data.classes == ("0", "1", "2")


def test_idx_labels_may_start_above_zero_and_have_gaps(tmp_path: Path) -> None:
    parts = write_idx(tmp_path)
    for part, (_, labels) in parts.items():
        write_idx_array(tmp_path / f"{part}-labels-idx1-ubyte", np.array([1, 2, 26])[labels])
    data = load_dataset(f"idx:{tmp_path}")
    assert data.classes == ("1", "2", "26")
    np.testing.assert_array_equal(data.train_labels, parts["train"][1])


def missing_idx_file(path: Path) -> None:
    (path / "t10k-labels-idx1-ubyte").unlink()


def truncated_idx_file(path: Path) -> None:
    file = path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])


def longer_idx_file(path: Path) -> None:
    file = path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes() + b"x")


def truncated_gzip(path: Path) -> None:
    write_idx(path, ".gz")
    file = path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    (path / "train-images-idx3-ubyte").unlink()


def idx_header_of_4_billion_images(path: Path) -> None:
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", *[2**32 - 1] * 3)
    (path / "train-images-idx3-ubyte").write_bytes(header)


def idx_header_of_no_images(path: Path) -> None:
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1)  # too big for NumPy
    (path / "train-images-idx3-ubyte").write_bytes(header)


def labels_in_place_of_images(path: Path) -> None:
    write_idx_array(path / "train-images-idx3-ubyte", np.zeros(30))


def fewer_labels_than_images(path: Path) -> None:
    write_idx_array(path / "train-labels-idx1-ubyte", patterns(29)[1])


def oblong_images(path: Path) -> None:
    write_idx_array(path / "train-images-idx3-ubyte", np.zeros((30, 8, 6)))


def other_size_in_test(path: Path) -> None:
    write_idx_array(path / "t10k-images-idx3-ubyte", np.zeros((12, 6, 6)))


def unseen_test_label(path: Path) -> None:
    write_idx_array(path / "t10k-labels-idx1-ubyte", np.arange(12) % 4)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (missing_idx_file, "has no t10k-labels-idx1-ubyte"),
        (truncated_idx_file, "has 1919 bytes of data, but its header says 1920"),
        (longer_idx_file, "has more bytes of data, but its header says 1920"),
        (truncated_gzip, "train-images-idx3-ubyte.gz cannot be read"),
        (idx_header_of_4_billion_images, "train-images-idx3-ubyte cannot be read"),
        (idx_header_of_no_images, "is empty: its header says 0 x 4294967295 x 4294967295"),
        (labels_in_place_of_images, "starts with bytes 00 00 08 01"),
        (fewer_labels_than_images, "has 30 train images and 29 train labels"),
        (oblong_images, "train images of .* have 8x6 pixels"),
        (other_size_in_test, "8x8x1 train and 6x6x1 test images"),
        (unseen_test_label, "has no train image of class '3'"),
    ],
)
def test_invalid_idx_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], problem: str
) -> None:
    write_idx(tmp_path)
    spoil(tmp_path)
    refused(f"idx:{tmp_path}", problem)


def test_missing_idx_folder_is_refused(tmp_path: Path) -> None:
    refused(f"idx:{tmp_path}/none", "none is not a folder")


# npz


def test_npz_gets_a_fixed_stratified_split(archive: Path) -> None:
    data = load_dataset(f"npz:{archive}")
    everything = sorted_images(data.train_images, data.test_images)
    assert everything == sorted_images(torch.from_numpy(patterns(60)[0]))
    assert data.train_labels.bincount().tolist() == [16, 16, 16]
    assert data.test_labels.bincount().tolist() == [4, 4, 4]
    again = load_dataset(f"npz:{archive}").test_images
    assert sorted_images(data.test_images) == sorted_images(again)
    assert "20%" in data.split


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_npz_with_a_split_keeps_it(tmp_path: Path, keys: tuple[str, ...]) -> None:
    images, labels = patterns(30)
    color = np.stack([images, images // 2, images // 4], axis=3)
    # Class numbers with gaps and labels of shape (N, 1) both occur in published archives.
    numbers = np.array([3, 5, 9])[labels][:, None]
    arrays = (color[:20], numbers[:20], color[20:], numbers[20:])
    np.savez(tmp_path / "own.npz", **dict(zip(keys, arrays, strict=True)))
    data = load_dataset(f"npz:{tmp_path / 'own.npz'}")
    np.testing.assert_array_equal(data.train_images.permute(0, 2, 3, 1), color[:20])  # type: ignore[union-attr]
    np.testing.assert_array_equal(data.test_labels, labels[20:])
    assert data.classes == ("3", "5", "9")


def test_npz_labels_of_mixed_integer_types_stay_exact(tmp_path: Path) -> None:
    images, _ = patterns(4)
    labels = np.array([2**53, 2**53 + 1] * 2)
    np.savez(
        tmp_path / "a.npz",
        x_train=images,
        y_train=labels.astype(np.int64),
        x_test=images,
        y_test=labels.astype(np.uint64),
    )
    data = load_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert data.classes == (str(2**53), str(2**53 + 1))
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 1, 0, 1]


def save(**arrays: object) -> Callable[[Path], None]:
    images, labels = patterns(30)
    content = {"images": images, "labels": labels, **arrays}
    return lambda path: np.savez(path, **content)  # type: ignore[arg-type]


def rare_class(path: Path) -> None:
    images, labels = patterns(30)
    labels[0] = 3
    np.savez(path, images=images, labels=labels)


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def truncated_npz(path: Path) -> None:
    path.write_bytes(write_npz(path).read_bytes()[:500])


def change_byte(path: Path, marker: bytes, offset: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    start = content.find(marker)
    while start >= 0:
        content[start + offset] = value
        start = content.find(marker, start + 1)
    path.write_bytes(content)


def unknown_compression(path: Path) -> None:
    write_npz(path)
    change_byte(path, b"PK\x01\x02", 10, 99)
    change_byte(path, b"PK\x03\x04", 8, 99)


def encrypted(path: Path) -> None:
    write_npz(path)
    change_byte(path, b"PK\x01\x02", 8, 1)
    change_byte(path, b"PK\x03\x04", 6, 1)


def with_member(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_npz(path)
        with zipfile.ZipFile(path) as archive:
            labels = archive.read("labels.npy")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
            archive.writestr("labels.npy", labels)

    return write


def npy_with_header(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: np.savez(path, pictures=np.zeros(3)), r"other arrays \(pictures\)"),
        (save(images=np.zeros((9, 4, 4))), "Array images of .* is float64 of shape"),
        (save(images=np.uint8(3)), r"Array images of .* is uint8 of shape \(\)"),
        (save(labels=np.zeros(0, int)), r"Array labels of .* is int64 of shape \(0,\)"),
        (save(labels=np.float32(1)), "Array labels of .* is float32"),
        (save(labels=np.full(30, 2**63, np.uint64)), "Array labels of .* is uint64"),
        (save(labels=np.zeros(30, int)), r"has 1 class\(es\)"),
        (save(labels=np.arange(29) % 3), "has 30 images and 29 labels"),
        (save(images=np.array([{}], object)), "cannot be read as an .npz archive"),
        (rare_class, r"Class '3' of .* has 1 image; at least 5"),
        (single_array, "not an archive"),
        (truncated_npz, "cannot be read as an .npz archive"),
        (unknown_compression, "cannot be read as an .npz archive"),
        (encrypted, "cannot be read as an .npz archive"),
        (with_member(b"no array"), "Array images of .* is not an array"),
        (
            with_member(npy_with_header("{'descr':'|u1','fortran_order':False,'shape':(2**60,)}")),
            "cannot be read as an .npz archive",
        ),
        (
            with_member(npy_with_header(f"{{'descr':'|u1','shape':({2**50},8,8)}}")),
            "cannot be read as an .npz archive",
        ),
        (
            with_member(
                npy_with_header(
                    f"{{'descr':'|u1','fortran_order':False,'shape':({2**50}, 8, 8), }}"
                )
            ),
            "cannot be read as an .npz archive",
        ),
        (with_member(npy_with_header("[" * 9000)), "cannot be read as an .npz archive"),
        (with_member(npy_with_header(" " * 20000)), "cannot be read as an .npz archive"),
    ],
)
def test_invalid_npz_is_refused(
    tmp_path: Path, write: Callable[[Path], None], problem: str
) -> None:
    write(tmp_path / "a.npz")
    refused(f"npz:{tmp_path / 'a.npz'}", problem)


def test_missing_npz_is_refused(tmp_path: Path) -> None:
    refused(f"npz:{tmp_path}/none", "none is not a file")


# SVHN


def write_svhn(folder: Path, packed: bool = False, **changes: object) -> dict[str, Arrays]:
    folder.mkdir(exist_ok=True)
    parts = {}
    for part, seed in (("train", 0), ("test", 1)):
        images, labels = patterns(40, classes=10, side=32, seed=seed)
        colored = np.stack([images, images // 2, images // 4], axis=1)
        parts[part] = (colored, labels)
        content = {
            "X": colored.transpose(2, 3, 1, 0),
            "y": np.where(labels == 0, 10, labels)[:, None],
        }
        savemat(folder / f"{part}_32x32.mat", {**content, **changes}, do_compression=packed)
    return parts


@pytest.mark.parametrize("label_type", [np.uint8, np.int64, np.float64])
@pytest.mark.parametrize("packed", [False, True])
def test_svhn_returns_the_content_of_its_files(
    tmp_path: Path, packed: bool, label_type: type[np.generic]
) -> None:
    _, labels = patterns(40, classes=10, side=32)
    stored = np.where(labels == 0, 10, labels)[:, None].astype(label_type)
    parts = write_svhn(tmp_path, packed, y=stored)
    data = load_dataset(f"svhn:{tmp_path}")
    check_content(data, parts["train"], parts["test"])
    assert data.classes == tuple("0123456789")
    from_scipy = loadmat(tmp_path / "train_32x32.mat")["X"]
    np.testing.assert_array_equal(data.train_images, from_scipy.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("kept", [0, 4, 100, 130, 140, 0.5, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_svhn_is_refused(tmp_path: Path, kept: float, packed: bool) -> None:
    write_svhn(tmp_path, packed)
    file = tmp_path / "train_32x32.mat"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept == int(kept) else kept * len(content))])
    refused(f"svhn:{tmp_path}", r"train_32x32\.mat (cannot be read|does not hold)")


def cells(count: int) -> np.ndarray:
    made = np.empty((count, 1), object)
    made[:] = [[np.array([1])]] * count
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"X": np.zeros((32, 32, 3, 40))},
        {"X": np.zeros((32, 32, 40), np.uint8)},
        {"X": np.zeros((32, 32, 3, 0), np.uint8), "y": np.zeros((0, 1))},
        {"X": "text"},
        {"y": np.full((40, 1), 11)},
        {"y": np.full((40, 1), 1.5)},
        {"y": np.full((40, 1), np.nan)},
        {"y": cells(40)},
        {"y": {"field": 1}},
        {"y": np.ones((39, 1))},
    ],
)
def test_svhn_with_other_content_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    write_svhn(tmp_path, **changes)
    refused(f"svhn:{tmp_path}", r"train_32x32\.mat does not hold bytes X")


def test_svhn_that_is_missing_or_not_matlab_is_refused(tmp_path: Path) -> None:
    refused(f"svhn:{tmp_path}", "train_32x32.mat does not exist. Put .* from http")
    (tmp_path / "train_32x32.mat").write_bytes(b"no MATLAB file at all" * 20)
    (tmp_path / "test_32x32.mat").write_bytes(b"")
    refused(f"svhn:{tmp_path}", "cannot be read as a MATLAB file of version 5")


# CIFAR


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_returns_the_content_of_its_files(tmp_path: Path, classes: int) -> None:
    parts = write_cifar(tmp_path / "cifar", classes)
    data = load_dataset(f"cifar:{tmp_path / 'cifar'}")
    check_content(data, parts["train"], parts["test"])
    assert data.train_labels.dtype == torch.int64
    assert data.classes == tuple(f"class {number}" for number in range(classes))


@pytest.mark.parametrize("protocol", [3, 4])
def test_cifar_pickled_by_python_3_is_read(tmp_path: Path, protocol: int) -> None:
    images, labels = write_cifar(tmp_path)["test"]
    content = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_array_equal(load_dataset(f"cifar:{tmp_path}").test_images, images)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("batches.meta", None, r"has no batches\.meta or meta\. .*https://.*unpack it"),
        ("data_batch_4", None, "has no data_batch_4. Download cifar-10-python.tar.gz"),
        ("batches.meta", {"label_names": 3}, "batches.meta has no list of strings"),
        ("test_batch", [1], "test_batch holds a list"),
        ("test_batch", {"data": "x", "labels": [1]}, "has no rows of 3,072 bytes"),
        ("test_batch", {"data": np.zeros((1, 3), np.uint8)}, "has no rows of 3,072 bytes"),
        ("test_batch", {"data": np.zeros((1, 3072), np.uint8)}, "no valid class per row in labels"),
        (
            "test_batch",
            {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
            "no valid class per row in labels",
        ),
        (
            "test_batch",
            {"data": np.zeros((0, 3072), np.uint8), "labels": []},
            "has 0 test images and 0 test labels",
        ),
    ],
)
def test_invalid_cifar_is_refused(tmp_path: Path, file: str, content: object, problem: str) -> None:
    write_cifar(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(python2_pickle(content))
    refused(f"cifar:{tmp_path}", problem)


# Pickles


@given(PLAIN)
def test_plain_data_is_unpickled_unchanged(value: object) -> None:
    assert plain_pickle.loads(python2_pickle(value)) == value
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert plain_pickle.loads(pickle.dumps(value, protocol)) == value


def test_numpy_reads_the_pickles_of_these_tests() -> None:
    """They have the real format, not the one that the reader expects."""
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's modules have moved since.
        content = pickle.loads(python2_pickle({"data": array}), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], array)


class Harm:
    """An object whose pickle executes code."""

    ran: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return self.ran.append, ("harm",)


def test_nothing_that_a_pickle_names_is_executed(tmp_path: Path) -> None:
    hostile = [
        pickle.dumps(Harm()),
        pickle.dumps({"data": print}),
        b"cos\nsystem\n(S'true'\ntR.",  # a call
        b"(S'true'\nios\nsystem\n.",  # a call of an older protocol
        b"\x80\x02cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",  # an array of objects
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x02cnumpy\nndarray\n(K\x01tR.",
        b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.",  # a change of a class
        b"\x80\x02Nr\xff\xff\xff\x7f",  # a memo of 2^31 entries, then an early end
    ]
    for content in hostile:
        with pytest.raises(pickle.UnpicklingError):
            plain_pickle.loads(content)
    assert Harm.ran == []
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(hostile[0])
    refused(f"cifar:{tmp_path}", "data_batch_3 cannot be read")


@given(st.binary(max_size=60))
def test_any_bytes_are_unpickled_or_refused(content: bytes) -> None:
    with suppress(pickle.UnpicklingError):
        plain_pickle.loads(b"\x80\x02" + content)


def test_invalid_arrays_in_pickles_are_refused() -> None:
    array = ByteArray()
    kind = plain_pickle.loads(python2_pickle(np.zeros(2, np.uint8)))
    assert isinstance(kind, ByteArray)
    with pytest.raises(pickle.UnpicklingError, match="other values than bytes"):
        array.__setstate__((1, (2,), "O8", False, b"ab"))
    short = python2_pickle(np.zeros((2, 3), np.uint8)).replace(
        struct.pack("<i", 3), struct.pack("<i", 4)
    )
    with pytest.raises(pickle.UnpicklingError, match="of another size than its 6 bytes"):
        plain_pickle.loads(short)
    with pytest.raises(pickle.UnpicklingError, match="other values than bytes"):
        plain_pickle.loads(python2_pickle(np.zeros(2, np.float32)))

"""CIFAR's pickles and Mini-ImageNet's tables, in the form in which they are published."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from study_files import (
    python2_pickle,
    write_cifar,
    write_imagefolder,
    write_miniimagenet,
    write_tar,
)
from typer.testing import CliRunner

from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study
from zeromean.study.data import plain_pickle
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.data.plain_pickle import ByteArray

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers(0, 9), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_own_files(tmp_path: Path, classes: int) -> None:
    parts = write_cifar(tmp_path / "cifar", classes)
    data = load_dataset(f"cifar:{tmp_path / 'cifar'}")
    np.testing.assert_array_equal(data.train_images, parts["train"][0])
    np.testing.assert_array_equal(data.train_labels, parts["train"][1])
    np.testing.assert_array_equal(data.test_images, parts["test"][0])
    np.testing.assert_array_equal(data.test_labels, parts["test"][1])
    assert data.train_labels.dtype == torch.int64
    assert data.classes == tuple(f"class {number}" for number in range(classes))


def test_a_pickle_of_python_3_will_do_too(tmp_path: Path) -> None:
    images, labels = write_cifar(tmp_path)["test"]
    content = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
    for protocol in (3, 4):
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol))
        np.testing.assert_array_equal(load_dataset(f"cifar:{tmp_path}").test_images, images)


@given(PLAIN)
def test_plain_data_are_read_as_they_were(value: object) -> None:
    assert plain_pickle.loads(python2_pickle(value)) == value
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert plain_pickle.loads(pickle.dumps(value, protocol)) == value


def test_the_pickles_of_these_tests_are_those_of_python_2() -> None:
    """NumPy itself reads them: they are the real format, not what the reader expects of it."""
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that NumPy's parts have moved since
        content = pickle.loads(python2_pickle({"data": array}), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], array)


class Harm:
    """What a pickle must not run."""

    ran: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return self.ran.append, ("harm",)


def test_nothing_that_a_pickle_names_is_run(tmp_path: Path) -> None:
    hostile = [
        pickle.dumps(Harm()),
        pickle.dumps({"data": print}),
        b"cos\nsystem\n(S'true'\ntR.",  # a call
        b"(S'true'\nios\nsystem\n.",  # a call of an older protocol
        b"\x80\x02cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",  # an array of objects
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x02cnumpy\nndarray\n(K\x01tR.",
        b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.",  # a change of what is given out
        b"\x80\x02Nr\xff\xff\xff\x7f",  # a memo of 2^31 entries, then an early end
    ]
    for content in hostile:
        with pytest.raises(pickle.UnpicklingError):
            plain_pickle.loads(content)
    assert Harm.ran == []
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(hostile[0])
    with pytest.raises(ZeromeanError, match="data_batch_3, which cannot be read"):
        load_dataset(f"cifar:{tmp_path}")


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_they_are_read_or_refused(content: bytes) -> None:
    with suppress(pickle.UnpicklingError):
        plain_pickle.loads(b"\x80\x02" + content)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    whole = python2_pickle({"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]})
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    with suppress(pickle.UnpicklingError):
        plain_pickle.loads(changed)


def test_an_array_that_is_none_is_refused() -> None:
    array = ByteArray()
    kind = plain_pickle.loads(python2_pickle(np.zeros(2, np.uint8)))
    assert isinstance(kind, ByteArray)
    with pytest.raises(pickle.UnpicklingError, match="other things than bytes"):
        array.__setstate__((1, (2,), "O8", False, b"ab"))
    short = python2_pickle(np.zeros((2, 3), np.uint8)).replace(
        struct.pack("<i", 3), struct.pack("<i", 4)
    )
    with pytest.raises(pickle.UnpicklingError, match="of another size than its 6 bytes"):
        plain_pickle.loads(short)
    with pytest.raises(pickle.UnpicklingError, match="other things than bytes"):
        plain_pickle.loads(python2_pickle(np.zeros(2, np.float32)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("batches.meta", None, r"without batches\.meta or meta; .*https://.*unpack it"),
        ("data_batch_4", None, "without data_batch_4; .*fetch cifar-10-python.tar.gz"),
        ("batches.meta", {"label_names": 3}, "batches.meta, without the list of texts"),
        ("test_batch", [1], "test_batch, which holds list"),
        ("test_batch", {"data": "x", "labels": [1]}, "without rows of 3,072 bytes"),
        ("test_batch", {"data": np.zeros((1, 3), np.uint8)}, "without rows of 3,072 bytes"),
        ("test_batch", {"data": np.zeros((1, 3072), np.uint8)}, "a class of each row in labels"),
        (
            "test_batch",
            {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
            "without a class of each row in labels",
        ),
    ],
)
def test_other_files_than_cifars_are_refused(
    tmp_path: Path, file: str, content: object, message: str
) -> None:
    write_cifar(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(python2_pickle(content))
    with pytest.raises(ZeromeanError, match=message) as error:
        load_dataset(f"cifar:{tmp_path}")
    assert "\n" not in str(error.value)


def test_the_tables_for_few_shot_learning_are_split_within_classes(tmp_path: Path) -> None:
    classes = {"train": ("n01", "n02"), "val": ("n03",), "test": ("n04", "n05")}
    write_miniimagenet(tmp_path, classes)
    data = load_dataset(f"miniimagenet:{tmp_path}")
    assert data.classes == ("n01", "n02", "n03", "n04", "n05")
    assert data.train_images.shape == (50, 3, 84, 84)
    assert data.train_labels.bincount().tolist() == [10] * 5
    assert data.test_labels.bincount().tolist() == [2] * 5
    last = np.asarray(Image.open(tmp_path / "images" / "n01000000011.jpg"))
    np.testing.assert_array_equal(data.test_images[1].permute(1, 2, 0), last)


def test_tables_that_share_their_classes_are_the_split(tmp_path: Path) -> None:
    write_miniimagenet(tmp_path, {"train": ("n01", "n02"), "test": ("n01", "n02")}, each=4)
    table = tmp_path / "train.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # as spreadsheets begin theirs
    data = load_dataset(f"miniimagenet:{tmp_path}")
    assert data.test_labels.tolist() == [0] * 4 + [1] * 4
    assert data.split == "the data set's own test.csv"


def test_a_study_of_mini_imagenet_in_another_size(tmp_path: Path) -> None:
    write_miniimagenet(
        tmp_path / "data", {"train": ("n01",), "val": ("n02",), "test": ("n03",)}, side=12
    )
    words = f"--data miniimagenet:{tmp_path}/data --model mlp --resize 20 --crop 16 --epochs 1"
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["compare", *words.split(), "--seeds", "1", "--batch-size", "8", "--out", str(out)]
    )
    assert (result.exit_code, result.stderr) == (0, "")
    page = (out / "report.html").read_text()
    assert "16x16x3, 3 classes" in page
    assert "--resize 20 --crop 16" in page


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "train.csv").unlink(), r"without train\.csv; .*https://github.com"),
        (lambda path: (path / "val.csv").unlink(), r"without val\.csv"),
        (
            lambda path: (path / "images" / "n01000000000.jpg").unlink(),
            r"without images/n01000000000\.jpg",
        ),
        (lambda path: (path / "test.csv").write_text("a,b\n1,2\n"), "columns a, b"),
        (lambda path: (path / "test.csv").write_text(""), "columns none"),
        (lambda path: (path / "test.csv").write_bytes(b"\xff\xfe\x00"), "unreadable .*test.csv"),
        (lambda path: (path / "test.csv").write_text("filename,label\n"), "without a row"),
        (lambda path: (path / "test.csv").write_text("filename,label\nx\n"), "without images/x"),
        (
            lambda path: (path / "images" / "n01000000000.jpg").write_bytes(b"rubbish"),
            "broken image .*n01000000000.jpg",
        ),
    ],
)
def test_what_is_not_mini_imagenet_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    write_miniimagenet(
        tmp_path, {"train": ("n01",), "val": ("n02",), "test": ("n03",)}, each=6, side=8
    )
    spoil(tmp_path)
    with pytest.raises(ZeromeanError, match=message) as error:
        load_dataset(f"miniimagenet:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
@pytest.mark.parametrize("archive", [False, True])
def test_without_a_test_folder_val_takes_its_place(
    tmp_path: Path, name: str, archive: bool
) -> None:
    write_imagefolder(tmp_path / "files")
    path = tmp_path / "files"
    before = load_dataset(f"imagefolder:{path}")
    (path / "test").rename(path / name)
    if archive:
        path = write_tar(tmp_path / "a.tar", path, parts=("train", name))
    after = load_dataset(f"imagefolder:{path}")
    assert torch.equal(after.test_images, before.test_images)
    assert after.split == f"the data set's own {name} folder"


def test_a_test_folder_comes_before_val(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    before = load_dataset(f"imagefolder:{tmp_path}")
    for label in before.classes:
        (tmp_path / "val" / label).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "val" / label / "a.png")
    after = load_dataset(f"imagefolder:{tmp_path}")
    assert torch.equal(after.test_images, before.test_images)
    assert torch.equal(after.train_images, before.train_images)


def test_images_of_any_size_are_scaled_and_their_middle_is_kept(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    wide = Image.new("RGB", (40, 20), (0, 0, 200))
    wide.paste((200, 0, 0), (10, 5, 30, 15))  # the middle half each way
    wide.save(tmp_path / "test" / "cat" / "0000.png")
    data = load_dataset(f"imagefolder:{tmp_path}", ImageTransform(resize=20, crop=10))
    assert data.train_images.shape == (30, 3, 10, 10)
    assert data.test_images[0, :, 5, 5].tolist() == [200, 0, 0]
    assert (data.test_images[0, 0] > 100).float().mean() > 0.8
    assert load_dataset(f"imagefolder:{tmp_path}", ImageTransform(crop=6)).side == 6
    with pytest.raises(ZeromeanError, match=r"of 8x8 pixels with crop = 9; wanted a crop within"):
        load_dataset(f"imagefolder:{tmp_path}", ImageTransform(crop=9))


def test_84_pixels_become_224_by_the_task_alone(tmp_path: Path) -> None:
    write_miniimagenet(tmp_path, {"train": ("a", "b"), "test": ("a", "b")}, each=1)
    data = load_dataset(f"miniimagenet:{tmp_path}", ImageTransform(resize=224))
    picture = Image.open(tmp_path / "images" / "a000000000.jpg").resize((224, 224), 2)
    np.testing.assert_array_equal(data.train_images[0].permute(1, 2, 0), np.asarray(picture))


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for field in ("resize", "crop"):
        with pytest.raises(ZeromeanError, match=f"{field} = 0; wanted 1 or more"):
            ImageTask(**{field: 0})  # type: ignore[arg-type]
    with pytest.raises(ZeromeanError, match="crop = 512 with resize = 448"):
        ImageTask(resize=448, crop=512)
    with pytest.raises(ZeromeanError, match="resize 8 for text"):
        ImageTask(data="text", model="lstm", resize=8)
    with pytest.raises(ZeromeanError, match="resize or crop with digits, whose images come in one"):
        load_dataset("digits", ImageTransform(resize=16))
    task = dataclasses.replace(ImageTask(), resize=512, crop=448)
    assert task.label == "digits/cnn resize=512 crop=448"
    Study(tasks=(task,))


def test_cifar_is_trained_on(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar", each=30)
    task = ImageTask(
        data=f"cifar:{tmp_path / 'cifar'}",
        model="cnn",
        epochs=1,
        augment="crop-flip",
        batch_size=50,
    )
    results = Study(tasks=(task,), seeds=1, lr=0.01).run(tmp_path / "out")
    assert "150 train and 30 test images, 32x32x3" in results.facts[task.label].description

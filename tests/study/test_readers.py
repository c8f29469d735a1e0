"""Each reader on files in its real format: what it returns, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat
from sklearn.datasets import load_digits
from study_files import (
    Arrays,
    patterns,
    write_idx,
    write_idx_array,
    write_imagefolder,
    write_npz,
    write_tar,
)

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
FASHION = Path("/usr/share/datasets/fashion-mnist")


def rows(*parts: torch.Tensor) -> list[bytes]:
    """Images as sortable values, to compare sets of images."""
    return sorted(image.numpy().tobytes() for part in parts for image in part)


def test_digits_are_scikit_learns_split_in_half_by_class() -> None:
    data = load_dataset("digits")
    whole = torch.from_numpy(load_digits().images.astype(np.uint8))[:, None]
    assert rows(data.train_images, data.test_images) == rows(whole)
    difference = data.train_labels.bincount() - data.test_labels.bincount()
    assert difference.abs().max() <= 1
    assert torch.equal(data.test_images, load_dataset("digits").test_images)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_returns_what_the_files_hold(tmp_path: Path, suffix: str) -> None:
    parts = write_idx(tmp_path, suffix)
    data = load_dataset(f"idx:{tmp_path}")
    np.testing.assert_array_equal(data.train_images[:, 0], parts["train"][0])
    np.testing.assert_array_equal(data.train_labels, parts["train"][1])
    np.testing.assert_array_equal(data.test_images[:, 0], parts["t10k"][0])
    np.testing.assert_array_equal(data.test_labels, parts["t10k"][1])
    assert data.classes == ("0", "1", "2")


def test_npz_without_a_split_gets_a_stratified_one_that_never_changes(archive: Path) -> None:
    data = load_dataset(f"npz:{archive}")
    assert rows(data.train_images, data.test_images) == rows(torch.from_numpy(patterns(60)[0]))
    assert data.train_labels.bincount().tolist() == [16, 16, 16]
    assert data.test_labels.bincount().tolist() == [4, 4, 4]
    assert torch.equal(data.test_images, load_dataset(f"npz:{archive}").test_images)
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
    # Class numbers with gaps, and labels of shape (N, 1), are both met in the wild.
    numbers = np.array([3, 5, 9])[labels][:, None]
    arrays = (color[:20], numbers[:20], color[20:], numbers[20:])
    np.savez(tmp_path / "own.npz", **dict(zip(keys, arrays, strict=True)))
    data = load_dataset(f"npz:{tmp_path / 'own.npz'}")
    np.testing.assert_array_equal(data.train_images.permute(0, 2, 3, 1), color[:20])
    np.testing.assert_array_equal(data.test_labels, labels[20:])
    assert data.classes == ("3", "5", "9")


@pytest.mark.parametrize(
    "name", ["", "images.tar", "images.tar.gz", "images.tar.bz2", "images.tar.xz"]
)
@pytest.mark.parametrize("color", [False, True])
def test_imagefolder_reads_folders_and_archives_alike(
    tmp_path: Path, name: str, color: bool
) -> None:
    write_imagefolder(tmp_path / "files", color=color)
    path = tmp_path / "files"
    if name:
        path = write_tar(tmp_path / name, path, inside="some/folder/")
    data = load_dataset(f"imagefolder:{path}")
    assert data.classes == ("cat", "dog", "frog")
    assert data.train_images.shape == (30, 3 if color else 1, 8, 8)
    images, labels = patterns(12, seed=1)
    # Files come class by class.
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(data.test_labels, labels[order])
    for channel in range(data.channels):
        np.testing.assert_array_equal(data.test_images[:, channel], images[order] // 2**channel)


def test_imagefolder_reads_jpeg_and_makes_gray_among_colored_images_colored(
    tmp_path: Path,
) -> None:
    write_imagefolder(tmp_path, suffix=".jpg")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "test" / "cat" / "red.jpg")
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.train_images.shape == (30, 3, 8, 8)
    assert torch.equal(data.train_images[:, 0], data.train_images[:, 2])
    reds = (data.test_images[:, 0].float().mean((1, 2)) > 150) & (
        data.test_images[:, 1].float().mean((1, 2)) < 50
    )
    assert reds.sum() == 1


def test_imagefolder_leaves_other_files_alone(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    (tmp_path / "train" / "cat" / "._0000.png").write_bytes(b"not an image")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    assert len(load_dataset(f"imagefolder:{tmp_path}").train_images) == 30


def missing_idx_file(path: Path) -> str:
    write_idx(path)
    (path / "t10k-labels-idx1-ubyte").unlink()
    return f"idx:{path}"


def truncated_idx_file(path: Path) -> str:
    write_idx(path)
    file = path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    return f"idx:{path}"


def broken_gzip(path: Path) -> str:
    write_idx(path, ".gz")
    file = path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    return f"idx:{path}"


def labels_in_place_of_images(path: Path) -> str:
    write_idx(path)
    write_idx_array(path / "train-images-idx3-ubyte", np.zeros(30))
    return f"idx:{path}"


def fewer_labels_than_images(path: Path) -> str:
    write_idx(path)
    write_idx_array(path / "train-labels-idx1-ubyte", patterns(29)[1])
    return f"idx:{path}"


def oblong_images(path: Path) -> str:
    write_idx(path)
    write_idx_array(path / "train-images-idx3-ubyte", np.zeros((30, 8, 6)))
    return f"idx:{path}"


def other_size_in_test(path: Path) -> str:
    write_idx(path)
    write_idx_array(path / "t10k-images-idx3-ubyte", np.zeros((12, 6, 6)))
    return f"idx:{path}"


def wrong_npz_keys(path: Path) -> str:
    np.savez(path / "a.npz", pictures=np.zeros(3))
    return f"npz:{path / 'a.npz'}"


def npz_of_floats(path: Path) -> str:
    np.savez(path / "a.npz", images=np.zeros((9, 4, 4)), labels=np.arange(9) % 3)
    return f"npz:{path / 'a.npz'}"


def npz_without_images(path: Path) -> str:
    np.savez(path / "a.npz", images=np.zeros((0, 4, 4), np.uint8), labels=np.zeros(0, int))
    return f"npz:{path / 'a.npz'}"


def npz_with_a_rare_class(path: Path) -> str:
    images, labels = patterns(30)
    labels[0] = 3
    np.savez(path / "a.npz", images=images, labels=labels)
    return f"npz:{path / 'a.npz'}"


def npz_with_one_label_less(path: Path) -> str:
    images, labels = patterns(30)
    np.savez(path / "a.npz", images=images, labels=labels[1:])
    return f"npz:{path / 'a.npz'}"


def pickled_npz(path: Path) -> str:
    np.savez(path / "a.npz", images=np.array([{}], object), labels=np.zeros(1, int))
    return f"npz:{path / 'a.npz'}"


def single_array(path: Path) -> str:
    np.save(path / "a.npy", np.zeros(3))
    return f"npz:{path / 'a.npy'}"


def truncated_npz(path: Path) -> str:
    file = write_npz(path / "a.npz")
    file.write_bytes(file.read_bytes()[:500])
    return f"npz:{file}"


def one_class(path: Path) -> str:
    np.savez(path / "a.npz", images=patterns(30)[0], labels=np.zeros(30, int))
    return f"npz:{path / 'a.npz'}"


def corrupt_image(path: Path) -> str:
    write_imagefolder(path)
    (path / "train" / "dog" / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return f"imagefolder:{path}"


def deep_image(path: Path) -> str:
    write_imagefolder(path)
    gray16 = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(gray16).save(path / "train" / "dog" / "0001.png")
    return f"imagefolder:{path}"


def truncated_image(path: Path) -> str:
    write_imagefolder(path, suffix=".jpg")
    file = path / "train" / "dog" / "0001.jpg"
    file.write_bytes(file.read_bytes()[:-60])
    return f"imagefolder:{path}"


def varying_size(path: Path) -> str:
    write_imagefolder(path)
    Image.new("L", (9, 9)).save(path / "train" / "dog" / "0001.png")
    return f"imagefolder:{path}"


def class_without_test_image(path: Path) -> str:
    write_imagefolder(path)
    for file in (path / "test" / "dog").iterdir():
        file.unlink()
    return f"imagefolder:{path}"


def class_without_train_image(path: Path) -> str:
    write_imagefolder(path)
    for file in (path / "train" / "dog").iterdir():
        file.unlink()
    return f"imagefolder:{path}"


def no_test_folder(path: Path) -> str:
    write_imagefolder(path)
    (path / "test").rename(path / "held-out")
    return f"imagefolder:{path}"


def no_tar(path: Path) -> str:
    (path / "a.tar.xz").write_bytes(b"not an archive")
    return f"imagefolder:{path / 'a.tar.xz'}"


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda path: "mnist", "data 'mnist'"),
        (lambda path: "idx:", "data 'idx:'"),
        (lambda path: f"zip:{path}", "data 'zip:"),
        (lambda path: f"idx:{path / 'none'}", "not a folder"),
        (lambda path: f"npz:{path / 'none'}", "no file"),
        (lambda path: f"imagefolder:{path / 'none'}", "does not exist"),
        (lambda path: f"npz:{'x' * 300}", "cannot be read"),
        (missing_idx_file, "without t10k-labels-idx1-ubyte"),
        (truncated_idx_file, "1919 bytes of data"),
        (broken_gzip, "unreadable .*train-images"),
        (labels_in_place_of_images, "starting with bytes 00 00 08 01"),
        (fewer_labels_than_images, "30 train images and 29 train labels"),
        (oblong_images, "train images of 8x6 pixels"),
        (other_size_in_test, "8x8x1 train and 6x6x1 test images"),
        (wrong_npz_keys, "with arrays pictures; wanted .*images, labels"),
        (npz_of_floats, "images of type float64"),
        (npz_without_images, r"labels of type int64 and shape \(0,\)"),
        (npz_with_a_rare_class, r"class '3' with 1 image\(s\)"),
        (npz_with_one_label_less, "30 images and 29 labels"),
        (pickled_npz, "unreadable .*a.npz"),
        (single_array, "unreadable .*a.npy .*not an archive"),
        (truncated_npz, "unreadable .*a.npz"),
        (one_class, r"1 class\(es\)"),
        (corrupt_image, "broken image .*dog/0001.png"),
        (deep_image, "dog/0001.png with more than 8 bits a pixel"),
        (truncated_image, "broken image .*dog/0001.jpg"),
        (varying_size, "dog/0001.png of 9x9 pixels; wanted 8x8"),
        (class_without_test_image, "class 'dog' without a test image"),
        (class_without_train_image, "class 'dog' without a train image"),
        (no_test_folder, "no test image"),
        (no_tar, "unreadable .*a.tar.xz"),
    ],
)
def test_bad_data_is_refused(tmp_path: Path, make: Callable[[Path], str], got: str) -> None:
    with pytest.raises(ZeromeanError, match=got):
        load_dataset(make(tmp_path))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_truncated_archive_is_refused_wherever_it_was_cut(tmp_path: Path, name: str) -> None:
    write_imagefolder(tmp_path / "files")
    file = write_tar(tmp_path / name, tmp_path / "files")
    whole = file.read_bytes()
    # An uncompressed archive ends in zeros up to a whole record; cutting those loses no image.
    end = len(whole.rstrip(b"\0")) if name == "a.tar" else len(whole) - 100
    for cut in np.linspace(0, end, 50, dtype=int):
        file.write_bytes(whole[:cut])
        with pytest.raises(ZeromeanError, match=r"unreadable .*a\.tar"):
            load_dataset(f"imagefolder:{file}")


def check(data: Dataset, train: int, test: int, channels: int, side: int, classes: int) -> None:
    assert data.train_images.shape == (train, channels, side, side)
    assert data.test_images.shape == (test, channels, side, side)
    assert len(data.classes) == classes
    # Real images, neither blank nor read in the wrong order: neighboring pixels resemble.
    images = data.test_images.float()
    assert (images[..., 1:] - images[..., :-1]).abs().mean() < 0.5 * images.std()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout")
def test_extended_yale_b() -> None:
    check(load_dataset(f"npz:{SHARED / 'yaleb_32x32.npz'}"), 1931, 483, 1, 32, 38)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout")
def test_cifar10_in_a_tar() -> None:
    data = load_dataset(f"imagefolder:{SHARED / 'cifar10-jpeg.tar.xz'}")
    check(data, 50_000, 10_000, 3, 32, 10)
    assert data.classes[0] == "airplane"
    assert data.test_labels.bincount().tolist() == [1000] * 10


@pytest.mark.skipif(not FASHION.is_dir(), reason=f"no {FASHION} (dataset-fashion-mnist)")
def test_fashion_mnist() -> None:
    check(load_dataset(f"idx:{FASHION}"), 60_000, 10_000, 1, 28, 10)


def write_svhn(folder: Path, **changes: object) -> dict[str, Arrays]:
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
        savemat(folder / f"{part}_32x32.mat", {**content, **changes})
    return parts


@pytest.mark.parametrize("kept", [0, 4, 100, 130, 0.5, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_file_of_svhn_is_refused(tmp_path: Path, kept: float, packed: bool) -> None:
    write_svhn(tmp_path)
    file = tmp_path / "train_32x32.mat"
    whole = loadmat(file)
    savemat(file, {name: whole[name] for name in ("X", "y")}, do_compression=packed)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept == int(kept) else kept * len(content))])
    with pytest.raises(ZeromeanError, match=r"train_32x32\.mat"):
        load_dataset(f"svhn:{tmp_path}")


def test_svhn_in_its_own_files(tmp_path: Path) -> None:
    parts = write_svhn(tmp_path / "svhn")
    data = load_dataset(f"svhn:{tmp_path / 'svhn'}")
    assert np.array_equal(data.train_images.numpy(), parts["train"][0])
    assert np.array_equal(data.test_images.numpy(), parts["test"][0])
    assert np.array_equal(data.train_labels.numpy(), parts["train"][1])
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("changes", [{"X": np.zeros((32, 32, 3, 4))}, {"y": np.array([[11]])}])
def test_other_matlab_files_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    write_svhn(tmp_path, **changes)
    with pytest.raises(ZeromeanError, match=r"train_32x32\.mat with other content"):
        load_dataset(f"svhn:{tmp_path}")
    (tmp_path / "train_32x32.mat").write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(ZeromeanError, match="unreadable"):
        load_dataset(f"svhn:{tmp_path}")


def save_huggingface(folder: Path, parts: tuple[str, ...] = ("train", "test")) -> None:
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "frog"])}
    )
    sets = {}
    for seed, part in enumerate(parts):
        images, labels = patterns(12, seed=seed)
        content = {"picture": [Image.fromarray(one) for one in images], "kind": labels.tolist()}
        sets[part] = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(sets).save_to_disk(folder)


def test_a_saved_set_of_the_hub(tmp_path: Path) -> None:
    save_huggingface(tmp_path, ("train", "validation"))
    data = load_dataset(f"hf:{tmp_path}")
    images, labels = patterns(12)
    assert np.array_equal(data.train_images[:, 0].numpy(), images)
    assert np.array_equal(data.train_labels.numpy(), labels)
    assert np.array_equal(data.test_images[:, 0].numpy(), patterns(12, seed=1)[0])
    assert data.classes == ("cat", "dog", "frog")
    assert data.split == "the data set's own validation part"


def test_images_of_the_hub_are_brought_to_one_size(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [Image.new("RGB", (8 + index, 9), (index, 0, 0)) for index in range(4)]
    part = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 2}, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path)
    with pytest.raises(ZeromeanError, match="9x9 pixels; wanted 9x8 like the first"):
        load_dataset(f"hf:{tmp_path}")
    data = load_dataset(f"hf:{tmp_path}", ImageTransform(resize=8, crop=6))
    assert data.train_images.shape == (4, 3, 6, 6)
    assert data.train_images[:, 0, 3, 3].tolist() == [0, 1, 2, 3]


def test_an_image_folder_of_the_hubs_layout(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    data = load_dataset(f"hf:{tmp_path}")
    assert data.classes == ("cat", "dog", "frog")
    assert data.describe() == load_dataset(f"imagefolder:{tmp_path}").describe()


def test_a_set_that_is_not_there_is_told_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeromeanError, match=r"cannot be loaded.*save_to_disk\(DIR\); then hf:DIR"):
        load_dataset(f"hf:{tmp_path}/nowhere")
    save_huggingface(tmp_path / "half", ("train",))
    with pytest.raises(ZeromeanError, match="the parts train; wanted train and one of"):
        load_dataset(f"hf:{tmp_path / 'half'}")


def save_parts(folder: Path, **parts: dict[str, list[object]]) -> str:
    """Parts of two classes, as they are."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    sets = {
        part: datasets.Dataset.from_dict(content, features=features)
        for part, content in parts.items()
    }
    datasets.DatasetDict(sets).save_to_disk(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("unknown", [-1, None])
def test_images_of_the_hub_without_a_label_are_of_no_class(
    tmp_path: Path, unknown: int | None
) -> None:
    images: list[object] = [Image.new("L", (8, 8), shade) for shade in range(4)]
    whole: dict[str, list[object]] = {"image": images, "label": [0, 1, 0, 1]}
    some: dict[str, list[object]] = {"image": images, "label": [0, 1, 0, unknown]}
    text = save_parts(tmp_path / "train", train=some, test=whole)
    with pytest.raises(ZeromeanError, match=r"parts train \(without labels\), test; wanted train"):
        load_dataset(text)
    text = save_parts(tmp_path / "test", train=whole, test=some, validation=whole)
    assert load_dataset(text).split == "the data set's own validation part"
    with pytest.raises(ZeromeanError, match=r"parts train, test \(without labels\); wanted train"):
        load_dataset(save_parts(tmp_path / "none", train=whole, test=some))


def test_a_row_of_the_hub_without_an_image_is_told(tmp_path: Path) -> None:
    images: list[object] = [Image.new("L", (8, 8), shade) for shade in range(4)]
    whole: dict[str, list[object]] = {"image": images, "label": [0, 1, 0, 1]}
    text = save_parts(tmp_path, train=whole, test={**whole, "image": [*images[:3], None]})
    with pytest.raises(ZeromeanError, match="broken image an image of hf:"):
        load_dataset(text)

"""Readers of image files: which files are read, their pixels, their labels, and what is refused."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from study_files import patterns, write_imagefolder, write_miniimagenet, write_tar

from zeromean.errors import ZeromeanError, ZeromeanWarning
from zeromean.study.data.disk_images import split
from zeromean.study.data.huggingface import read_huggingface
from zeromean.study.data.image_files import MAX_FILE_BYTES, SUFFIXES, ImageTransform
from zeromean.study.data.load import load_dataset

CLASSES = ("cat", "dog", "frog")


def refused(text: str, problem: str) -> None:
    with pytest.raises(ZeromeanError, match=problem) as error:
        load_dataset(text)
    assert "\n" not in str(error.value)


def same(first: str, second: str) -> bool:
    one, other = load_dataset(first), load_dataset(second)
    assert one.classes == other.classes
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in parts)


def save_hub(
    folder: Path,
    parts: dict[str, tuple[list[object], list[object]]],
    labels: object = None,
    decode: bool = True,
) -> str:
    """Save parts of images and labels as `datasets` does; returns the text that names them."""
    kinds = labels if isinstance(labels, dict) else dict.fromkeys(parts, labels)
    saved = {}
    for part, (images, values) in parts.items():
        kind = kinds[part] or datasets.ClassLabel(names=list(CLASSES))
        features = datasets.Features({"image": datasets.Image(decode=decode), "label": kind})
        content = {"image": images, "label": values}
        saved[part] = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(saved).save_to_disk(folder)
    return f"hf:{folder}"


def arrays(count: int = 12, seed: int = 0) -> tuple[list[object], list[object]]:
    images, labels = patterns(count, seed=seed)
    return [Image.fromarray(one) for one in images], labels.tolist()


def odd_files(folder: Path) -> None:
    """Images in all modes, formats and orientations that differ between readers."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    color, gray = Image.fromarray(rgb), Image.fromarray(rgb[:, :, 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    files: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "turned.jpg": (color, {"exif": turned, "quality": 100}),
        "turned.png": (color, {"exif": turned}),
        "a.webp": (color, {"lossless": True}),
        "b.tif": (color, {}),
        "c.gif": (color.convert("P"), {}),
        "d.jpe": (color, {"format": "JPEG"}),
        "e.bmp": (color, {}),
        "f.ppm": (color, {}),
        "alpha.png": (gray.convert("LA"), {}),
        "alpha2.png": (color.convert("RGBA"), {}),
        "palette.png": (gray.convert("P"), {}),
        "one-bit.png": (gray.convert("1"), {}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
    }
    for part in ("train", "test"):
        for kind in ("ant", "bee"):
            (folder / part / kind).mkdir(parents=True)
            for name, (image, options) in files.items():
                image.save(folder / part / kind / name, **options)  # type: ignore[arg-type]


def test_folder_archive_and_hub_give_the_same_pixels(tmp_path: Path) -> None:
    odd_files(tmp_path / "files")
    write_tar(tmp_path / "a.tar.gz", tmp_path / "files")
    parts = {}
    for part in ("train", "test"):
        files = sorted((tmp_path / "files" / part).glob("*/*"))
        features = {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["ant", "bee"]),
        }
        content = {
            "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
            "label": [file.parent.name for file in files],
        }
        parts[part] = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hub")
    assert same(f"imagefolder:{tmp_path / 'files'}", f"imagefolder:{tmp_path / 'a.tar.gz'}")
    assert same(f"imagefolder:{tmp_path / 'files'}", f"hf:{tmp_path / 'hub'}")


def test_orientation_is_applied(tmp_path: Path) -> None:
    odd_files(tmp_path)
    images = load_dataset(f"imagefolder:{tmp_path}").train_images
    assert isinstance(images, torch.Tensor)
    names = sorted(os.listdir(tmp_path / "train" / "ant"))
    upright, turned = images[names.index("e.bmp")], images[names.index("turned.png")]
    assert torch.equal(turned, upright.rot90(-1, (1, 2)))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_gray_images_of_any_mode_have_one_channel(tmp_path: Path, mode: str) -> None:
    write_imagefolder(tmp_path)
    for file in tmp_path.rglob("*.png"):
        Image.open(file).convert(mode).save(file)
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.channels == 1
    if mode != "1":
        order = np.argsort(patterns(12, seed=1)[1], kind="stable")
        np.testing.assert_array_equal(data.test_images[:, 0], patterns(12, seed=1)[0][order])  # type: ignore[index]


@pytest.mark.parametrize(
    "name", ["", "images.tar", "images.tar.gz", "images.tar.bz2", "images.tar.xz"]
)
@pytest.mark.parametrize("color", [False, True])
def test_folders_and_archives_are_read(tmp_path: Path, name: str, color: bool) -> None:
    write_imagefolder(tmp_path / "files", color=color)
    path = tmp_path / "files"
    if name:
        path = write_tar(tmp_path / name, path, inside="some/folder/")
    data = load_dataset(f"imagefolder:{path}")
    assert data.classes == CLASSES
    assert data.train_images.shape == (30, 3 if color else 1, 8, 8)
    images, labels = patterns(12, seed=1)
    order = np.argsort(labels, kind="stable")  # Files are sorted by class.
    np.testing.assert_array_equal(data.test_labels, labels[order])
    for channel in range(data.channels):
        np.testing.assert_array_equal(data.test_images[:, channel], images[order] // 2**channel)  # type: ignore[index]


def test_gray_images_among_colored_ones_get_three_channels(tmp_path: Path) -> None:
    write_imagefolder(tmp_path, suffix=".jpg")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "test" / "cat" / "red.jpg")
    data = load_dataset(f"imagefolder:{tmp_path}")
    train, test = (torch.cat([*split(one, 9)]) for one in (data.train_images, data.test_images))
    assert train.shape == (30, 3, 8, 8)
    assert torch.equal(train[:, 0], train[:, 2])
    red = (test[:, 0].float().mean((1, 2)) > 150) & (test[:, 1].float().mean((1, 2)) < 50)
    assert red.sum() == 1


@pytest.mark.parametrize("archive", [False, True])
def test_hidden_files_are_ignored_and_others_counted(tmp_path: Path, archive: bool) -> None:
    files = tmp_path / "files"
    write_imagefolder(files)
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (files / "train" / folder).mkdir()
        shutil.copy(files / "train/cat/0000.png", files / "train" / folder)
    (files / "train/cat/._0000.png").write_bytes(b"not an image")
    path = write_tar(tmp_path / "a.tar", files) if archive else files
    data = load_dataset(f"imagefolder:{path}")
    assert (data.classes, len(data.train_labels)) == (CLASSES, 30)
    (files / "train/cat/notes.txt").write_text("not an image")
    (files / "train/cat/folder.avif").write_text("of another format")
    path = write_tar(tmp_path / "a.tar", files) if archive else files
    with pytest.warns(ZeromeanWarning, match=r"2 files are not read, such as train/cat/folder\.a"):
        assert len(load_dataset(f"imagefolder:{path}").train_labels) == 30


@pytest.mark.parametrize("archive", [False, True])
def test_subfolders_of_a_class_are_read(tmp_path: Path, archive: bool) -> None:
    write_imagefolder(tmp_path / "files")
    (tmp_path / "files/train/cat/more/test").mkdir(parents=True)
    shutil.copy(tmp_path / "files/train/dog/0001.png", tmp_path / "files/train/cat/more/test")
    path = write_tar(tmp_path / "a.tar", tmp_path / "files") if archive else tmp_path / "files"
    assert load_dataset(f"imagefolder:{path}").train_labels.bincount().tolist() == [11, 10, 10]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "files")
    (tmp_path / "files/train/cat/link.png").symlink_to(tmp_path / "files/train/dog/0001.png")
    (tmp_path / "files/train/cat/circle").symlink_to(tmp_path / "files/train")
    (tmp_path / "linked").symlink_to(tmp_path / "files")
    data = load_dataset(f"imagefolder:{tmp_path / 'linked'}")
    assert data.train_labels.bincount().tolist() == [11, 10, 10]


def test_links_in_an_archive_are_counted(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "files")
    (tmp_path / "files/train/cat/link.png").symlink_to("0000.png")
    path = write_tar(tmp_path / "a.tar", tmp_path / "files")
    with pytest.warns(ZeromeanWarning, match="1 file is not read, such as train/cat/link.png"):
        assert len(load_dataset(f"imagefolder:{path}").train_labels) == 30


def test_pipes_and_broken_links_are_counted_not_opened(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    os.mkfifo(tmp_path / "train/cat/pipe.png")
    (tmp_path / "train/cat/zzz.png").symlink_to("nowhere.png")
    (tmp_path / "train/cat/zzzz.png").symlink_to("zzzz.png")
    with pytest.warns(ZeromeanWarning, match=r"3 files are not read, such as train/cat/pipe\.png"):
        assert len(load_dataset(f"imagefolder:{tmp_path}").train_labels) == 30


@pytest.mark.parametrize("inside", ["", "images/"])
@pytest.mark.parametrize("archive", [False, True])
def test_classes_without_a_split_are_divided(tmp_path: Path, inside: str, archive: bool) -> None:
    write_imagefolder(tmp_path / "with-split")
    place = tmp_path / "files" / inside
    shutil.copytree(tmp_path / "with-split/train", place)
    (place / "cat/train").mkdir()  # No part: it has no class folder.
    (place / "cat/0000.png").rename(place / "cat/train/0000.png")
    path = tmp_path / "files"
    if archive:
        path = write_tar(
            tmp_path / "a.tar",
            path,
            parts=(inside or "cat", *("dog", "frog")[: 0 if inside else 2]),
        )
    data = load_dataset(f"imagefolder:{path}")
    assert data.classes == CLASSES
    assert data.train_labels.bincount().tolist() == [8, 8, 8]
    assert data.test_labels.bincount().tolist() == [2, 2, 2]
    assert "20% of each class" in data.split


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
@pytest.mark.parametrize("archive", [False, True])
def test_val_replaces_a_missing_test_folder(tmp_path: Path, name: str, archive: bool) -> None:
    write_imagefolder(tmp_path / "files")
    path = tmp_path / "files"
    before = load_dataset(f"imagefolder:{path}")
    (path / "test").rename(path / name)
    if archive:
        path = write_tar(tmp_path / "a.tar", path, parts=("train", name))
    after = load_dataset(f"imagefolder:{path}")
    assert torch.equal(after.test_images, before.test_images)  # type: ignore[arg-type]
    assert after.split == f"the data set's own {name} folder"


def test_test_folder_precedes_val_which_is_not_decoded(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    before = load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "val" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat" / "a.png").write_bytes(b"broken")
    after = load_dataset(f"imagefolder:{tmp_path}")
    assert torch.equal(after.test_images, before.test_images)  # type: ignore[arg-type]
    assert torch.equal(after.train_images, before.train_images)  # type: ignore[arg-type]


def test_class_without_test_image_is_a_warning(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    shutil.rmtree(tmp_path / "test/dog")
    with pytest.warns(ZeromeanWarning, match="no test image of 1 of its 3 classes, such as 'dog'"):
        data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.classes == CLASSES
    assert data.test_labels.bincount().tolist() == [4, 0, 4]


def corrupt_image(path: Path) -> None:
    (path / "train/dog/0001.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")


def empty_image(path: Path) -> None:
    (path / "train/dog/0001.png").write_bytes(b"")


def postscript(path: Path) -> None:
    """Pillow would start Ghostscript for it."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (path / "train/dog/0001.png").write_bytes(program)


def deep_image(path: Path) -> None:
    gray16 = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(gray16).save(path / "train/dog/0001.png")


def too_many_pixels(path: Path) -> None:
    Image.new("1", (14000, 14000)).save(path / "train/dog/0001.png")


def truncated_image(path: Path) -> None:
    file = path / "train/dog/0001.png"
    Image.open(file).save(path / "train/dog/0002.jpg")
    content = (path / "train/dog/0002.jpg").read_bytes()
    (path / "train/dog/0002.jpg").write_bytes(content[:-60])


def gigantic_image(path: Path) -> None:
    with (path / "train/dog/0001.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


def varying_size(path: Path) -> None:
    Image.new("L", (9, 9)).save(path / "train/dog/0001.png")


def no_train_image_of_a_class(path: Path) -> None:
    shutil.rmtree(path / "train/dog")


def no_test_folder(path: Path) -> None:
    shutil.rmtree(path / "test")


def no_train_folder(path: Path) -> None:
    shutil.rmtree(path / "train")


def no_images(path: Path) -> None:
    for file in path.rglob("*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (corrupt_image, r"Image .*dog/0001\.png cannot be decoded as one of BMP, GIF"),
        (empty_image, r"Image .*dog/0001\.png cannot be decoded"),
        (postscript, r"Image .*dog/0001\.png cannot be decoded"),
        (deep_image, r"dog/0001\.png has more than 8 bits per channel"),
        (too_many_pixels, r"dog/0001\.png cannot be decoded .*WEBP \(DecompressionBombError\)"),
        (truncated_image, r"Image .*dog/0002\.jpg cannot be decoded"),
        (gigantic_image, r"Image .*dog/0001\.png has 1,073,741,825 bytes; at most"),
        (varying_size, r"dog/0001\.png has 9x9 pixels, unlike the first image with 8x8"),
        (no_train_image_of_a_class, "has no train image of class 'dog'"),
        (no_test_folder, "has no test images. Arrange them as train/<class>/"),
        (no_train_folder, "has no train images"),
        (no_images, "has no images"),
    ],
)
def test_invalid_image_folder_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], problem: str
) -> None:
    write_imagefolder(tmp_path)
    spoil(tmp_path)
    refused(f"imagefolder:{tmp_path}", problem)


def test_unreadable_paths_are_refused(tmp_path: Path) -> None:
    refused(f"imagefolder:{tmp_path}/none", "is not a folder or file")
    (tmp_path / "a.tar.xz").write_bytes(b"not an archive")
    refused(f"imagefolder:{tmp_path}/a.tar.xz", "cannot be read as a tar archive")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_archive_truncated_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    write_imagefolder(tmp_path / "files")
    file = write_tar(tmp_path / name, tmp_path / "files")
    whole = file.read_bytes()
    # A plain archive ends in zeros up to a whole record; without those no image is missing.
    end = len(whole.rstrip(b"\0")) if name == "a.tar" else len(whole) - 100
    for cut in np.linspace(0, end, 50, dtype=int):
        file.write_bytes(whole[:cut])
        refused(f"imagefolder:{file}", r"a\.tar.* cannot be read as a tar archive")


def test_sparse_member_of_an_archive_is_refused(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "files")
    sparse = tarfile.TarInfo("train/cat/z.png")
    sparse.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "train/cat/z.png",
        "GNU.sparse.realsize": str(60 * 10**9),
    }
    content = b"0\n".ljust(512, b"\0")
    sparse.size = len(content)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for part in ("train", "test"):
            archive.add(tmp_path / "files" / part, part)
        archive.addfile(sparse, io.BytesIO(content))
    refused(f"imagefolder:{tmp_path}/a.tar", r"z\.png has 60,000,000,000 bytes; at most")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_names_a_format_that_pillow_writes(suffix: str) -> None:
    Image.init()
    assert Image.EXTENSION[suffix] in Image.SAVE


# Transforms


def test_images_of_any_size_are_resized_then_cropped(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    wide = Image.new("RGB", (40, 20), (0, 0, 200))
    wide.paste((200, 0, 0), (10, 5, 30, 15))  # the middle half each way
    wide.save(tmp_path / "test" / "cat" / "0000.png")
    data = load_dataset(f"imagefolder:{tmp_path}", ImageTransform(resize=20, crop=10))
    assert data.train_images.shape == (30, 3, 10, 10)
    (first,) = split(data.test_images[:1], 1)
    assert first[0, :, 5, 5].tolist() == [200, 0, 0]
    assert (first[0, 0] > 100).float().mean() > 0.8
    assert load_dataset(f"imagefolder:{tmp_path}", ImageTransform(crop=6)).side == 6
    with pytest.raises(ZeromeanError, match="has 8x8 pixels, fewer than crop=9"):
        load_dataset(f"imagefolder:{tmp_path}", ImageTransform(crop=9))


def test_resize_is_pillows_bilinear_one(tmp_path: Path) -> None:
    write_miniimagenet(tmp_path, {"train": ("a", "b"), "test": ("a", "b")}, each=1)
    data = load_dataset(f"miniimagenet:{tmp_path}", ImageTransform(resize=224))
    picture = Image.open(tmp_path / "images" / "a000000000.jpg").resize((224, 224), 2)
    np.testing.assert_array_equal(data.train_images[0].permute(1, 2, 0), np.asarray(picture))  # type: ignore[index,union-attr]


# Hugging Face


def test_saved_hub_set_is_read(tmp_path: Path) -> None:
    text = save_hub(tmp_path, {"train": arrays(), "validation": arrays(seed=1)})
    data = load_dataset(text)
    images, labels = patterns(12)
    np.testing.assert_array_equal(data.train_images[:, 0], images)  # type: ignore[index]
    np.testing.assert_array_equal(data.train_labels, labels)
    np.testing.assert_array_equal(data.test_images[:, 0], patterns(12, seed=1)[0])  # type: ignore[index]
    assert data.classes == CLASSES
    assert data.split == "the data set's own validation part"


def test_each_part_of_a_hub_set_has_its_own_class_names(tmp_path: Path) -> None:
    labels = {
        "train": datasets.ClassLabel(names=["ant", "bee", "cat"]),
        "test": datasets.ClassLabel(names=["cat", "bee", "ant"]),
    }
    text = save_hub(tmp_path, {"train": arrays(), "test": arrays()}, labels)
    data = load_dataset(text)
    assert data.classes == ("ant", "bee", "cat")
    assert data.train_labels[:3].tolist() == [0, 1, 2]
    assert data.test_labels[:3].tolist() == [2, 1, 0]


def test_hub_classes_without_an_image_are_left_out(tmp_path: Path) -> None:
    images, labels = arrays()
    some: list[object] = [2 * (label == 2) for label in labels]
    data = load_dataset(save_hub(tmp_path, {"train": (images, some), "test": (images, some)}))
    assert data.classes == ("cat", "frog")
    assert data.train_labels.tolist() == [int(label == 2) for label in labels]


@pytest.mark.parametrize(
    ("kind", "values"),
    [("int64", [3, 10, 20]), ("string", ["ant", "bee", "cat"]), ("uint8", [0, 1, 2])],
)
def test_hub_labels_may_be_numbers_or_texts(
    tmp_path: Path, kind: str, values: list[object]
) -> None:
    images, labels = arrays()
    stored: list[object] = [values[one] for one in labels]  # type: ignore[index]
    parts = {"train": (images, stored), "test": (images, stored)}
    data = load_dataset(save_hub(tmp_path, parts, datasets.Value(kind)))
    assert data.classes == tuple(map(str, values))
    assert data.train_labels.tolist() == labels


def test_hub_images_may_be_undecoded_or_files(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "files")
    file = tmp_path / "files/train/cat/0000.png"
    rows: list[object] = [
        {"bytes": file.read_bytes(), "path": None},
        {"bytes": None, "path": str(file)},
    ]
    labels: list[object] = [0, 1]
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    part = datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)
    folder = tmp_path / "hub"
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(folder)
    images = load_dataset(f"hf:{folder}").train_images
    assert torch.equal(images[0], images[1])  # type: ignore[arg-type,index]


def test_hub_images_of_several_sizes_need_a_transform(tmp_path: Path) -> None:
    images: list[object] = [Image.new("RGB", (8 + index, 9), (index, 0, 0)) for index in range(6)]
    part: tuple[list[object], list[object]] = (images, [0, 1, 2] * 2)
    text = save_hub(tmp_path, {"train": part, "test": part})
    refused(text, "row 1 of part train of hf:.* has 9x9 pixels, unlike the first image with 9x8")
    data = load_dataset(text, ImageTransform(resize=8, crop=6))
    assert data.train_images.shape == (6, 3, 6, 6)
    assert data.train_images[:, 0, 3, 3].tolist() == [*range(6)]  # type: ignore[index]


def test_image_folder_is_read_by_the_hub_reader_alike(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    assert same(f"hf:{tmp_path}", f"imagefolder:{tmp_path}")


def test_hub_set_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    refused(f"hf:{tmp_path}/nowhere", r"cannot be loaded.*save_to_disk\(DIR\).*then use hf:DIR")
    text = save_hub(tmp_path / "half", {"train": arrays()})
    refused(text, "has the parts train; train and one of test")
    refused(f"{text}/train", "has the parts train; train and one of test")
    text = save_hub(
        tmp_path / "real", {"train": arrays(), "test": arrays()}, datasets.Value("float32")
    )
    refused(text, "has the columns image, label, not one of images and one of labels")


def test_hub_name_keeps_its_slash_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(PureWindowsPath):
        def is_file(self) -> bool:
            return False

    monkeypatch.setattr(datasets, "load_dataset", {}.__getitem__)
    with pytest.raises(ZeromeanError, match=r"hf:owner/name cannot be .*KeyError: 'owner/name'"):
        read_huggingface(Missing("owner/name"), ImageTransform())  # type: ignore[arg-type]


@pytest.mark.parametrize("unknown", [-1, None])
def test_hub_part_without_labels_is_not_used(tmp_path: Path, unknown: int | None) -> None:
    images, labels = arrays(6)
    whole, some = (images, labels), (images, [*labels[:5], unknown])
    text = save_hub(tmp_path / "train", {"train": some, "test": whole})
    refused(text, r"has the parts train \(without labels\), test; train and")
    text = save_hub(tmp_path / "test", {"train": whole, "test": some, "validation": whole})
    assert load_dataset(text).split == "the data set's own validation part"
    text = save_hub(tmp_path / "none", {"train": whole, "test": some})
    refused(text, r"has the parts train, test \(without labels\); train and")


def test_hub_row_without_an_image_is_refused(tmp_path: Path) -> None:
    images, labels = arrays(6)
    text = save_hub(tmp_path, {"train": (images, labels), "test": ([*images[:5], None], labels)})
    refused(text, "There is no image in row 5 of part test of hf:")


# Mini-ImageNet


def test_tables_for_few_shot_learning_are_split_within_classes(tmp_path: Path) -> None:
    classes = {"train": ("n01", "n02"), "val": ("n03",), "test": ("n04", "n05")}
    write_miniimagenet(tmp_path, classes)
    data = load_dataset(f"miniimagenet:{tmp_path}")
    assert data.classes == ("n01", "n02", "n03", "n04", "n05")
    assert data.train_images.shape == (50, 3, 84, 84)
    assert data.train_labels.bincount().tolist() == [10] * 5
    assert data.test_labels.bincount().tolist() == [2] * 5
    last = np.asarray(Image.open(tmp_path / "images" / "n01000000011.jpg"))
    np.testing.assert_array_equal(data.test_images[1].permute(1, 2, 0), last)  # type: ignore[index,union-attr]


def test_classes_with_too_few_images_to_split_are_refused(tmp_path: Path) -> None:
    write_miniimagenet(tmp_path, {"train": ("a",), "val": ("b",), "test": ("c",)}, each=5, side=8)
    refused(f"miniimagenet:{tmp_path}", "has 0 test images and 0 test labels. Add test images")


def test_tables_that_share_classes_are_the_split(tmp_path: Path) -> None:
    write_miniimagenet(tmp_path, {"train": ("n01", "n02"), "test": ("n01", "n02")}, each=4)
    table = tmp_path / "train.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # as spreadsheets write it
    data = load_dataset(f"miniimagenet:{tmp_path}")
    assert data.test_labels.tolist() == [0] * 4 + [1] * 4
    assert data.split == "the data set's own test.csv"


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: (path / "train.csv").unlink(), r"has no train\.csv.*https://github.com"),
        (lambda path: (path / "val.csv").unlink(), r"has no val\.csv"),
        (
            lambda path: (path / "images" / "n01000000000.jpg").unlink(),
            r"has no images/n01000000000\.jpg",
        ),
        (lambda path: (path / "test.csv").write_text("a,b\n1,2\n"), "columns a, b"),
        (lambda path: (path / "test.csv").write_text(""), "columns none"),
        (lambda path: (path / "test.csv").write_bytes(b"\xff\xfe\x00"), "test.csv is not a table"),
        (lambda path: (path / "test.csv").write_text("filename,label\n"), "has no rows"),
        (lambda path: (path / "test.csv").write_text("filename,label\nx,\n"), "line 2 lacks one"),
        (lambda path: (path / "test.csv").write_text("label,filename\nx\n"), "line 2 lacks one"),
        (lambda path: (path / "test.csv").write_text("filename,label\nx,y\n"), "has no images/x"),
        (
            lambda path: (path / "test.csv").write_text("filename,label\na\0b,x\n"),
            "has no images/a|is not a table",
        ),
        (
            lambda path: (path / "images" / "n01000000000.jpg").write_bytes(b"rubbish"),
            "n01000000000.jpg cannot be decoded",
        ),
    ],
)
def test_invalid_miniimagenet_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    classes = {"train": ("n01",), "val": ("n02",), "test": ("n03",)}
    write_miniimagenet(tmp_path, classes, each=6, side=8)
    spoil(tmp_path)
    refused(f"miniimagenet:{tmp_path}", problem)

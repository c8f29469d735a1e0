"""Mini-ImageNet: tables of file names and classes, and a folder of images."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

from PIL import Image

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.fingerprint import Fingerprint
from zeromean.study.data.image_files import Album, ImageTransform, Picture

TABLES = ("train", "val", "test")
COLUMNS = ("filename", "label")
# Of a class's images, where the tables split classes: 100 of 600.
TEST_SHARE = 6
Rows = list[tuple[str, str]]


def read_miniimagenet(folder: Path, size: ImageTransform) -> Dataset:
    """Reads ``train.csv``, ``val.csv``, ``test.csv`` and ``images/`` of the folder.

    Where train and test list the same classes, they are the split, and val is left alone. Where
    they list different ones, as the tables for few-shot learning do, all three are taken together:
    in each class the last sixth of the images, as listed, is the test set (500 and 100 images a
    class).

    Raises:
        ZeromeanError: A file is missing or broken.
    """
    name = f"miniimagenet:{folder}"
    tables = {part: _table(folder, part) for part in ("train", "test")}
    classes = {part: {label for _, label in rows} for part, rows in tables.items()}
    split = "the data set's own test.csv"
    if not classes["train"] & classes["test"]:
        tables["val"] = _table(folder, "val")
        tables = _within_classes([row for part in TABLES for row in tables[part]])
        split = "in each class the last sixth of the images, as train, val and test.csv list them"
    source, pictures = Fingerprint(), []
    for part in ("train", "test"):
        for file, label in tables[part]:
            path = _find(folder, file)
            source.add(f"{part} {label} {file}", path)
            pictures.append(Picture(part, label, str(path), partial(Image.open, path)))
    album = Album(name, size, source.digest, source.count, lambda: pictures)
    return album.read().dataset(name, "test", split)


def _within_classes(rows: Rows) -> dict[str, Rows]:
    by_class: dict[str, Rows] = defaultdict(list)
    for row in rows:
        by_class[row[1]].append(row)
    tables: dict[str, Rows] = {"train": [], "test": []}
    for members in by_class.values():
        learned = len(members) - len(members) // TEST_SHARE
        tables["train"] += members[:learned]
        tables["test"] += members[learned:]
    return tables


def _table(folder: Path, part: str) -> Rows:
    path = folder / f"{part}.csv"
    if not path.is_file():
        raise _missing(folder, path.name)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {*COLUMNS} <= {*(reader.fieldnames or ())}:
                raise csv.Error(f"columns {', '.join(reader.fieldnames or ()) or 'none'}")
            rows = [(row["filename"] or "", row["label"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ZeromeanError(
            f"unreadable {path} ({error})",
            f"a table with the columns {' and '.join(COLUMNS)}",
            "fetch it anew",
        ) from error
    if not rows:
        raise ZeromeanError(f"{path} without a row", "a row an image", "fetch it anew")
    return rows


def _find(folder: Path, file: str) -> Path:
    for path in (folder / "images" / file, folder / file):
        if file and path.is_file():
            return path
    raise _missing(folder, f"images/{file}")


def _missing(folder: Path, file: str) -> ZeromeanError:
    return ZeromeanError(
        f"miniimagenet:{folder} without {file}",
        "train.csv, val.csv, test.csv and their images",
        "take the tables from https://github.com/twitter-research/meta-learning-lstm"
        f" (data/miniImagenet), make the images from ImageNet, and put them into"
        f" {folder / 'images'}",
    )

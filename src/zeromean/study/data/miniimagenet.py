"""Mini-ImageNet: tables of file names and classes, and a folder of images."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import (
    ImageFile,
    ImageSource,
    ImageTransform,
    fingerprint,
    load_images,
    read_file,
)

TABLES = ("train", "val", "test")
COLUMNS = ("filename", "label")
# If the tables split classes, one image in TEST_DIVISOR of each class is for testing: 100 of 600.
TEST_DIVISOR = 6
Rows = list[tuple[str, str]]


def read_miniimagenet(folder: Path, transform: ImageTransform) -> Dataset:
    """Read ``train.csv``, ``val.csv``, ``test.csv`` and ``images/`` of the folder.

    If the tables of train and test share classes, they are the split, and val is ignored. If not,
    as in the tables for few-shot learning, all three are joined, and the last sixth of each class's
    images, as listed, is the test set (500 and 100 images per class).

    Raises:
        ZeromeanError: A file is missing or broken.
    """
    name = f"miniimagenet:{folder}"
    tables = {part: _table(folder, part) for part in ("train", "test")}
    classes = {part: {label for _, label in rows} for part, rows in tables.items()}
    split = "the data set's own test.csv"
    if not classes["train"] & classes["test"]:
        tables["val"] = _table(folder, "val")
        tables = _split_classes([row for part in TABLES for row in tables[part]])
        split = "the last sixth of each class's images, as train, val and test.csv list them"
    found, files = [], []
    for part in ("train", "test"):
        for file, label in tables[part]:
            path = _find(folder, file)
            found.append((f"{part} {label} {file}", path))
            files.append(ImageFile(part, label, str(path), partial(read_file, path)))
    source = ImageSource(name, fingerprint(found), len(files), lambda: (file for file in files))
    return load_images(source, transform).dataset(name, "test", split)


def _split_classes(rows: Rows) -> dict[str, Rows]:
    by_class: dict[str, Rows] = defaultdict(list)
    for row in rows:
        by_class[row[1]].append(row)
    tables: dict[str, Rows] = {"train": [], "test": []}
    for members in by_class.values():
        count = len(members) - len(members) // TEST_DIVISOR
        tables["train"] += members[:count]
        tables["test"] += members[count:]
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
            rows = []
            for row in reader:
                if not (row["filename"] and row["label"]):
                    raise csv.Error(f"line {reader.line_num} lacks one of them")
                rows.append((row["filename"], row["label"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ZeromeanError(
            f"{path} is not a table with the columns {' and '.join(COLUMNS)} ({error})",
            "Download it again",
        ) from error
    if not rows:
        raise ZeromeanError(f"{path} has no rows", "Download it again")
    return rows


def _find(folder: Path, file: str) -> Path:
    for path in (folder / "images" / file, folder / file):
        if path.is_file():
            return path
    raise _missing(folder, f"images/{file}")


def _missing(folder: Path, file: str) -> ZeromeanError:
    return ZeromeanError(
        f"miniimagenet:{folder} has no {file}",
        "Take train.csv, val.csv and test.csv from"
        " https://github.com/twitter-research/meta-learning-lstm (data/miniImagenet), make the"
        f" images from ImageNet, and put them into {folder / 'images'}",
    )

"""Find and count the data that a training program will read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.recipes.recipe import DataSet, Recipe
from zeromean.study.data.image_files import is_hidden, is_image

# Identity and camera in a file name of Market-1501; identity -1 is junk.
MARKET_NAME = re.compile(r"(\d+)_c\d+")


@dataclass(frozen=True)
class Found:
    """The data in a folder.

    Args:
        train, test, classes: Numbers of training images, test images and classes.
        description: Description of the data in one line.
    """

    train: int
    test: int
    classes: int
    description: str


def path_of(recipe: Recipe, data: str | None) -> str:
    """Return the path in the argument ``--data``, or all of it if zeromean trains the task itself.

    Raises:
        ZeromeanError: The argument is missing, has another form, or is given to a recipe without
            data.
    """
    form = recipe.data.form.partition(":")[0]
    if recipe.program is None and data is not None:
        return data
    if not form:
        if data is not None:
            raise ZeromeanError(f"{recipe.name} needs no data", "Remove --data")
        return ""
    kind, colon, path = (data or "").partition(":")
    if kind != form or not colon or not path:
        problem = f"is {data!r}, not of the form {recipe.data.form}" if data else "is missing"
        raise ZeromeanError(
            f"--data {problem}; {recipe.name} needs {recipe.data}",
            f"Pass --data {recipe.data.form}",
        )
    return path


def find(recipe: Recipe, path: str) -> Found:
    """Count the data in a folder.

    Raises:
        ZeromeanError: The folder does not have the layout of the recipe's data, or lacks images.
    """
    form = recipe.data.form.partition(":")[0]
    if not form:
        return Found(0, 0, 0, recipe.data.name)
    folder = Path(path)
    train, test, classes = _COUNTS[form](folder, recipe.data)
    if not train or not test:
        raise ZeromeanError(
            f"{folder} has {train} training and {test} test images",
            f"Put into {recipe.data.form}: {recipe.data.note}",
        )
    return Found(
        train,
        test,
        classes,
        f"{train:,} training and {test:,} test images of {classes} classes in {folder}",
    )


def check_weights(recipe: Recipe, weights: Path | None) -> str:
    """Return the path of the pretrained weights; empty for a recipe without any.

    Raises:
        ZeromeanError: They are missing, or given to a recipe that takes none.
    """
    wanted = recipe.program.weights if recipe.program is not None else ""
    if not wanted:
        if weights is not None:
            raise ZeromeanError(f"{recipe.name} takes no pretrained weights", "Remove --weights")
        return ""
    if weights is None or not weights.is_file():
        problem = "--weights is missing" if weights is None else f"there is no file {weights}"
        raise ZeromeanError(
            f"{problem}; {recipe.name} starts from {wanted}",
            "Save these as a state dict by torch.save, and pass --weights FILE",
        )
    return str(weights)


def _require(path: Path, data: DataSet) -> Path:
    if not path.exists():
        raise ZeromeanError(
            f"there is no {path}, which {data.name} has", f"Put into {data.form}: {data.note}"
        )
    return path


def _images(folder: Path, data: DataSet) -> list[str]:
    names = [one.name for one in _require(folder, data).iterdir()]
    return [name for name in names if is_image(name) and not is_hidden(name)]


def _count_below(folder: Path) -> int:
    """Return the number of images below a folder, without hidden files and folders."""
    count = 0
    for _, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        count += sum(is_image(name) and not is_hidden(name) for name in files)
    return count


def _coco(folder: Path, data: DataSet) -> tuple[int, int, int]:
    files = [folder / f"annotations/instances_{part}2017.json" for part in ("train", "val")]
    for file in files:
        _require(file, data)
    try:
        # Both files list the categories; this one is much smaller.
        categories = json.loads(files[1].read_text(encoding="utf-8"))["categories"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZeromeanError(
            f"{files[1]} is not a file of annotations in COCO's format ({error!r})",
            f"Put into {data.form}: {data.note}",
        ) from error
    train, val = (len(_images(folder / f"{part}2017", data)) for part in ("train", "val"))
    return train, val, len(categories)


def _market(folder: Path, data: DataSet) -> tuple[int, int, int]:
    train, query, gallery = (
        [match[1] for name in _images(folder / part, data) if (match := MARKET_NAME.match(name))]
        for part in ("bounding_box_train", "query", "bounding_box_test")
    )
    return len(train), len(query) + len(gallery), len(set(train))


def _folders(folder: Path, data: DataSet) -> tuple[int, int, int]:
    test = folder / ("test" if (folder / "test").is_dir() else "val")
    counts = []
    for part in (folder / "train", test):
        classes = [
            one
            for one in _require(part, data).iterdir()
            if one.is_dir() and not is_hidden(one.name)
        ]
        if not classes:
            raise ZeromeanError(
                f"{part} has no folders of classes", f"Put into {data.form}: {data.note}"
            )
        counts.append(sum(map(_count_below, classes)))
    return counts[0], counts[1], len(classes)


_COUNTS: dict[str, Callable[[Path, DataSet], tuple[int, int, int]]] = {
    "coco": _coco,
    "market1501": _market,
    "imagefolder": _folders,
}

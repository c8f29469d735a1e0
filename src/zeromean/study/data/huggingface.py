"""Image classification sets of the Hugging Face hub, or of a folder that ``datasets`` saved."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from zeromean.errors import ZeromeanError, needs_extra
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import Album, ImageTransform, Picture

# Where a set has no test part of its own, what stands for it.
TEST_PARTS = ("test", "validation", "valid")


def read_huggingface(path: Path, size: ImageTransform) -> Dataset:
    """Reads ``hf:NAME`` from the hub (or its local cache), ``hf:DIR`` as ``save_to_disk`` left it.

    The set has one column of images, one of class labels, a train part, and a test or validation
    part. Colored images become three channels, all-gray ones one.

    Raises:
        ZeromeanError: It is not there, or is another kind of set.
    """
    parts = _load(path)
    image, label = _columns(path, next(iter(parts.values())))
    # ImageNet's test part, for one, has no labels.
    labeled = [name for name, part in parts.items() if _is_labeled(part, image, label)]
    test = next((name for name in TEST_PARTS if name in labeled), None)
    if "train" not in labeled or test is None:
        told = ", ".join(name if name in labeled else f"{name} (without labels)" for name in parts)
        raise ZeromeanError(
            f"hf:{path} with the parts {told}",
            f"train and one of {', '.join(TEST_PARTS)}, with labels",
            "pick another set, or save one with these parts",
        )
    used = {name: parts[name].select_columns([image, label]) for name in ("train", test)}
    classes = tuple(parts["train"].features[label].names)

    def pictures() -> Iterator[Picture]:
        for name, part in used.items():
            for example in part:
                kind = classes[example[label]]
                yield Picture(name, kind, f"an image of hf:{path}", partial(_same, example[image]))

    source = " ".join(part._fingerprint for part in used.values())
    album = Album(f"hf:{path}", size, source, sum(map(len, used.values())), pictures)
    return album.read().dataset(f"hf:{path}", test, f"the data set's own {test} part", classes)


def _is_labeled(part: Any, image: str, label: str) -> bool:
    """Whether each of its images has a class; -1 stands for one that nobody is told."""
    if not {image, label} <= {*part.column_names}:
        return False
    return all(one is not None and one >= 0 for one in part[label])


def _same(image: Image.Image | None) -> Image.Image:
    """What ``datasets`` has decoded already."""
    if image is None:
        raise ValueError("a row without an image")
    return image


def _load(path: Path) -> Any:
    with needs_extra("hub", f"hf:{path}"):
        import datasets

    datasets.disable_progress_bars()
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path))
    # Which errors a missing or unreachable set raises differs by version.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ZeromeanError(
            f"hf:{path}, which cannot be loaded ({reason})",
            "a set of the hub, or a folder that datasets saved",
            f"where there is a network: datasets.load_dataset({str(path)!r}).save_to_disk(DIR);"
            " then hf:DIR",
        ) from error


def _columns(path: Path, part: Any) -> tuple[str, str]:
    import datasets

    def of(kind: type) -> list[str]:
        return [name for name, feature in part.features.items() if isinstance(feature, kind)]

    images, labels = of(datasets.Image), of(datasets.ClassLabel)
    if not images or not labels:
        raise ZeromeanError(
            f"hf:{path} with the columns {', '.join(part.features)}",
            "a column of images and one of class labels",
            "pick a set for image classification",
        )
    # Some have several labels, the usual one first or called so.
    return images[0], "fine_label" if "fine_label" in labels else labels[0]

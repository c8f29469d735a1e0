"""Image classification sets of the Hugging Face hub, or of a folder that ``datasets`` saved."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from zeromean.errors import ZeromeanError, needs_extra
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import (
    ImageFile,
    ImageSource,
    ImageTransform,
    load_images,
    read_file,
)

# Parts that serve as the test set, in order of preference.
TEST_PARTS = ("test", "validation", "valid")
# Usual names of label columns that are not declared as class labels.
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


def read_huggingface(path: Path, transform: ImageTransform) -> Dataset:
    """Read ``hf:NAME`` from the hub or its local cache, ``hf:DIR`` as ``save_to_disk`` wrote it.

    The set has a column of images, a column of labels (class labels, whole numbers or texts), a
    part ``train``, and a test or validation part. Each part's own class names apply to it.

    Raises:
        ZeromeanError: The set cannot be loaded or has another form.
    """
    name = f"hf:{path.as_posix()}"
    with needs_extra("hub", name):
        import datasets

    parts = _load(name, path)
    image, label = _columns(name, next(iter(parts.values())).features)
    # The test part of ImageNet, for example, has no labels.
    names = {part: _class_names(data, image, label) for part, data in parts.items()}
    test = next((part for part in TEST_PARTS if names.get(part)), None)
    if not names.get("train") or test is None:
        found = ", ".join(part if names[part] else f"{part} (without labels)" for part in parts)
        raise ZeromeanError(
            f"{name} has the parts {found}; train and one of {', '.join(TEST_PARTS)}, with labels,"
            " are needed",
            "Choose another set, or save one with these parts",
        )
    undecoded = datasets.Image(decode=False)
    used = {
        part: parts[part].select_columns([image, label]).cast_column(image, undecoded)
        for part in ("train", test)
    }

    def files() -> Generator[ImageFile, None, None]:
        for part, data in used.items():
            for row, example in enumerate(data):
                which = f"row {row} of part {part} of {name}"
                read = partial(_content, which, example[image])
                yield ImageFile(part, names[part][example[label]], which, read)

    fingerprint = " ".join(part._fingerprint for part in used.values())
    images = load_images(
        ImageSource(name, fingerprint, sum(map(len, used.values())), files), transform
    )
    classes = tuple(dict.fromkeys([*names["train"].values(), *names[test].values()]))
    return images.dataset(name, test, f"the data set's own {test} part", classes)


def _load(name: str, path: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    where = path.as_posix()  # Names of the hub have slashes on Windows, too.
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(where)
        if (path / "state.json").is_file():
            return {"train": datasets.load_from_disk(where)}
        return datasets.load_dataset(where)
    # The type of error for a missing or unreachable set differs between versions.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ZeromeanError(
            f"{name} cannot be loaded ({reason})",
            f"Run datasets.load_dataset({where!r}).save_to_disk(DIR) on a machine with network"
            " access, then use hf:DIR",
        ) from error


def _columns(name: str, features: Any) -> tuple[str, str]:
    """Return the names of the columns of images and labels."""
    import datasets

    images = [one for one, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [one for one, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [one for one in LABEL_COLUMNS if _is_plain_label(features.get(one))]
    if not images or not labels:
        raise ZeromeanError(
            f"{name} has the columns {', '.join(features)}, not one of images and one of labels",
            "Choose a set for image classification",
        )
    # Sets with several labels have the usual one first, or name it fine_label.
    return images[0], "fine_label" if "fine_label" in labels else labels[0]


def _is_plain_label(kind: Any) -> bool:
    text = str(getattr(kind, "dtype", ""))
    return text in ("string", "large_string") or text.startswith(("int", "uint"))


def _class_names(part: Any, image: str, label: str) -> dict[Any, str]:
    """Map labels to class names; empty if an image has no label, that is, ``None`` or -1."""
    if not {image, label} <= {*part.column_names}:
        return {}
    values = part.unique(label)
    declared = getattr(part.features[label], "names", None)
    if any(one is None or one == -1 for one in values):
        return {}
    if declared is not None:
        return dict(enumerate(declared))
    return {one: str(one) for one in sorted(values)}


def _content(name: str, image: dict[str, Any] | None) -> bytes:
    content, path = ((image or {}).get(key) for key in ("bytes", "path"))
    if content is not None:
        return bytes(content)
    if path is not None and Path(path).is_file():
        return read_file(Path(path))
    raise ZeromeanError(f"There is no image in {name}", "Remove the row")

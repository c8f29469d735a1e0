"""Image classification sets of the Hugging Face hub, or of a folder that ``datasets`` saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.data.album import Size
from zeromean.study.data.dataset import Dataset
from zeromean.study.extras import of_extra
from zeromean.study.settings import SettingError

# Where a set has no test part of its own, what stands for it.
TEST_PARTS = ("test", "validation", "valid")


def read_huggingface(path: Path, size: Size) -> Dataset:
    """Reads ``hf:NAME`` from the hub (or its local cache), ``hf:DIR`` as ``save_to_disk`` left it.

    The set has one column of images, one of class labels, a train part, and a test or validation
    part. Coloured images become three channels, all-grey ones one.

    Raises:
        ZeromeanError: It is not there, or is another kind of set.
    """
    parts = _load(path)
    test_name = next((name for name in TEST_PARTS if name in parts), None)
    if "train" not in parts or test_name is None:
        raise ZeromeanError(
            f"hf:{path} with the parts {', '.join(parts)}",
            f"train and one of {', '.join(TEST_PARTS)}",
            "pick another set, or save one with these parts",
        )
    image, label = _columns(path, parts["train"])
    names = parts["train"].features[label].names
    train_images, test_images = _images(path, size, parts["train"][image], parts[test_name][image])
    return Dataset(
        name=f"hf:{path}",
        train_images=train_images,
        train_labels=torch.tensor(list(parts["train"][label])),
        test_images=test_images,
        test_labels=torch.tensor(list(parts[test_name][label])),
        classes=tuple(names),
        split=f"the data set's own {test_name} part",
    )


def _load(path: Path) -> Any:
    with of_extra("hub", f"hf:{path}"):
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


def _images(path: Path, size: Size, *parts: Any) -> list[torch.Tensor]:
    decoded = [list(part) for part in parts]
    grey = all(image.mode in ("L", "1") for part in decoded for image in part)
    mode = "L" if grey else "RGB"
    brought = [
        [size.of(f"an image of hf:{path}", image.convert(mode)) for image in part]
        for part in decoded
    ]
    sizes = {image.size for part in brought for image in part}
    if len(sizes) != 1:
        raise SettingError(
            "resize",
            f"hf:{path} with images of {len(sizes)} sizes",
            "one size",
            "say one with resize",
            "save a set whose images have one",
        )
    stacked = []
    for part in brought:
        arrays = np.stack([np.asarray(image) for image in part])
        arrays = arrays[:, None] if grey else arrays.transpose(0, 3, 1, 2)
        stacked.append(torch.from_numpy(np.ascontiguousarray(arrays)))
    return stacked

"""Take some images of some classes of a data set, as an archive for recipes and studies.

    python benchmarks/fewer_images.py --data idx:/usr/share/datasets/fashion-mnist \
        --classes 2,4 --train 500,527 --test 128 --out two.npz
    zeromean reproduce tutorial-horses --data npz:two.npz

These are as many pullovers and coats as the tutorial has horses and humans, in 28x28 gray pixels;
no two classes are harder to distinguish. The first images of each class are taken; classes are
renumbered from 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zeromean.cli.output import one_line_errors
from zeromean.errors import ZeromeanError
from zeromean.study.data.disk_images import split
from zeromean.study.data.load import load_dataset


def integers(text: str) -> list[int]:
    """Parse integers separated by commas."""
    return [int(one) for one in text.split(",")]


def first_of_class(labels: Tensor, label: int, count: int, name: str) -> Tensor:
    """Return the indices of the first images of a class."""
    indices = (labels == label).nonzero().flatten()
    if len(indices) < count:
        raise ZeromeanError(f"There are {len(indices)} {name}, fewer than {count}", "Ask for fewer")
    return indices[:count]


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="data set, as for zeromean compare")
    parser.add_argument("--classes", type=integers, help="numbers of classes (default: all)")
    parser.add_argument("--train", type=integers, required=True, help="per class")
    parser.add_argument("--test", type=integers, required=True, help="per class")
    parser.add_argument("--out", type=Path, required=True, help=".npz file")
    arguments = parser.parse_args()
    with one_line_errors():
        write(arguments)


def write(arguments: argparse.Namespace) -> None:
    """Write the archive.

    Raises:
        ZeromeanError: The data lacks the classes or images.
    """
    data = load_dataset(arguments.data)
    classes = arguments.classes or range(len(data.classes))
    if not all(0 <= label < len(data.classes) for label in classes):
        raise ZeromeanError(
            f"--classes has numbers that are not below {len(data.classes)}", "Correct --classes"
        )
    arrays = {}
    for part, images, labels, counts in (
        ("train", data.train_images, data.train_labels, arguments.train),
        ("test", data.test_images, data.test_labels, arguments.test),
    ):
        per_class = counts * len(classes) if len(counts) == 1 else counts
        if len(per_class) != len(classes):
            raise ZeromeanError(
                f"--{part} has {len(counts)} numbers for {len(classes)} classes",
                "Pass one number, or one per class",
            )
        chosen = [
            first_of_class(labels, label, count, f"{part} images of {data.classes[label]}")
            for label, count in zip(classes, per_class, strict=True)
        ]
        taken = torch.cat([*split(images[torch.cat(chosen)], 1024)])
        arrays[f"{part}_images"] = taken.permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_labels"] = np.repeat(range(len(chosen)), [len(one) for one in chosen])
    np.savez_compressed(arguments.out, **arrays)


if __name__ == "__main__":
    main()

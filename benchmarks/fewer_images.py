"""Some images of some classes of a data set, as an archive that recipes and studies read.

    python benchmarks/fewer_images.py --data idx:/usr/share/datasets/fashion-mnist \
        --classes 2,4 --train 500,527 --test 128 --out two.npz
    zeromean reproduce tutorial-horses --data npz:two.npz

are as many pullovers and coats as the tutorial has horses and humans, 28x28 gray pixels: the two
classes that are hardest to tell apart. Of each class the first images are taken; classes are
numbered anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.disk_images import split
from zeromean.study.data.load import load_dataset


def numbers(text: str) -> list[int]:
    """Of a list with commas."""
    return [int(one) for one in text.split(",")]


def first(labels: Tensor, label: int, count: int, what: str) -> Tensor:
    """Where the first of a class are."""
    places = (labels == label).nonzero().flatten()
    if len(places) < count:
        raise ZeromeanError(f"{len(places)} {what}", f"{count}", "ask for fewer")
    return places[:count]


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="as for zeromean compare")
    parser.add_argument("--classes", type=numbers, help="numbers of classes; all by default")
    parser.add_argument("--train", type=numbers, required=True, help="a class, or one for all")
    parser.add_argument("--test", type=numbers, required=True, help="a class, or one for all")
    parser.add_argument("--out", type=Path, required=True, help="an .npz")
    chosen = parser.parse_args()
    data = load_dataset(chosen.data)
    classes = chosen.classes or range(len(data.classes))
    arrays = {}
    for part, images, labels, counts in (
        ("train", data.train_images, data.train_labels, chosen.train),
        ("test", data.test_images, data.test_labels, chosen.test),
    ):
        each = counts * len(classes) if len(counts) == 1 else counts
        places = [
            first(labels, label, count, f"{part} images of {data.classes[label]}")
            for label, count in zip(classes, each, strict=True)
        ]
        taken = torch.cat([*split(images[torch.cat(places)], 1024)])
        arrays[f"{part}_images"] = taken.permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_labels"] = np.repeat(range(len(places)), [len(one) for one in places])
    np.savez_compressed(chosen.out, **arrays)


if __name__ == "__main__":
    main()

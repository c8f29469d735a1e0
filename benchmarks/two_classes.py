"""Two classes of Fashion-MNIST, as many images as the tutorial has horses and humans.

    python benchmarks/two_classes.py --data /usr/share/datasets/fashion-mnist --out two.npz
    zeromean reproduce tutorial-horses --data npz:two.npz

500 pullovers and 527 coats to train on, 128 of each for the test, of 28x28 grey pixels: the two
classes that are hardest to tell apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from zeromean.study.data.load import load

# Class of the data set -> how many for training.
CLASSES = {2: 500, 4: 527}
TEST = 128


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, required=True, help="an .npz")
    chosen = parser.parse_args()
    data = load(f"idx:{chosen.data}")
    arrays = {}
    for part, images, labels, counts in (
        ("train", data.train_images, data.train_labels, CLASSES),
        ("test", data.test_images, data.test_labels, dict.fromkeys(CLASSES, TEST)),
    ):
        places = [(labels == label).nonzero().flatten()[:count] for label, count in counts.items()]
        arrays[f"{part}_images"] = np.concatenate([images[one, 0].numpy() for one in places])
        arrays[f"{part}_labels"] = np.repeat([0, 1], [len(one) for one in places])
    np.savez_compressed(chosen.out, **arrays)


if __name__ == "__main__":
    main()

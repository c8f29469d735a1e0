"""Write Extended Yale B as a re-identification data set, under the file names of Market-1501.

The lightings of a person, in the order of their directions, form six groups that stand for the
cameras c1 to c6. One split in three of the people is unseen in training: of each of them, `--query`
pictures per camera are queries, and the others form the gallery. Folder N holds split N modulo 3,
so that a study can use one folder per seed.

    python benchmarks/faces_as_people.py yaleb_32x32.npz OUT --folders 9
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CAMERAS, SPLITS = 6, 3


def write(out: Path, images: np.ndarray, labels: np.ndarray, split: int, queries: int) -> None:
    """Write the three folders of one split of the people."""
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(split)
    for person in np.unique(labels):
        pictures = images[labels == person]
        cameras = np.arange(len(pictures)) * CAMERAS // len(pictures)
        for camera in range(CAMERAS):
            for place, index in enumerate(rng.permutation(np.flatnonzero(cameras == camera))):
                if person % SPLITS != split:
                    folder = "bounding_box_train"
                else:
                    folder = "query" if place < queries else "bounding_box_test"
                name = f"{person + 1:04d}_c{camera + 1}s1_{index:06d}_00.png"
                Image.fromarray(pictures[index]).save(out / folder / name)


def chance(out: Path, draws: int = 20) -> tuple[float, float]:
    """Return mAP and rank 1 in percent of a gallery in random order, by Market-1501's protocol."""
    (query, gallery) = (
        np.array([[f.name[:4], f.name[6]] for f in sorted((out / name).iterdir())]).T
        for name in ("query", "bounding_box_test")
    )
    rng, precisions, firsts = np.random.default_rng(0), [], []
    for identity, camera in query.T:
        kept = (gallery[0] != identity) | (gallery[1] != camera)
        hits = (gallery[0] == identity)[kept]
        for _ in range(draws):
            order = rng.permutation(hits)
            precisions.append((order.cumsum() / np.arange(1, len(order) + 1))[order].mean())
            firsts.append(order[0])
    return 100 * float(np.mean(precisions)), 100 * float(np.mean(firsts))


def main() -> None:
    """Write the folders, and print their sizes and the level of chance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folders", type=int, default=SPLITS)
    parser.add_argument("--query", type=int, default=3, help="queries per person and camera")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists; pass another folder, or remove it")
    with np.load(args.data) as file:
        images, labels = file["images"], file["labels"]
    for number in range(args.folders):
        write(args.out / str(number), images, labels, number % SPLITS, args.query)
    for number in range(min(args.folders, SPLITS)):
        folder = args.out / str(number)
        counts = {f.name: len([*f.iterdir()]) for f in sorted(folder.iterdir())}
        precision, first = chance(folder)
        print(f"{number}: {counts}, by chance mAP {precision:.1f}, rank 1 {first:.1f}")


if __name__ == "__main__":
    main()

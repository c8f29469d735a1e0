"""Compose scenes of scikit-learn's handwritten digits and write them as COCO files.

Each scene holds up to four digits of 16 to 32 pixels on a noisy background. Digits may overlap; an
annotation covers the visible part of its digit. Some scenes are empty, and some hold a crowd of
small digits with `iscrowd`. Category ids have gaps, as in COCO.

    python benchmarks/digit_scenes.py OUT --train 600 --val 200
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from sklearn.datasets import load_digits

HEIGHT, WIDTH = 64, 96
CATEGORY_IDS = [1, 2, 3, 5, 7, 8, 11, 13, 16, 18]


def scene(rng: np.random.Generator, digits: np.ndarray, labels: np.ndarray) -> tuple:
    """One image and its objects as (category, mask, crowd)."""
    image = rng.normal(60, 12, (HEIGHT, WIDTH, 3))
    objects = []
    kind = rng.random()
    count = 0 if kind < 0.05 else rng.integers(2, 5)
    for _ in range(count):
        which = rng.integers(len(digits))
        side = int(rng.integers(16, 33))
        ink = np.asarray(
            Image.fromarray((digits[which] * 15.9).astype(np.uint8)).resize(
                (side, side), Image.BILINEAR
            )
        )
        y, x = rng.integers(0, HEIGHT - side + 1), rng.integers(0, WIDTH - side + 1)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + side, x : x + side] = ink > 60
        color = rng.uniform(150, 255, 3)
        image[mask] = color * (ink[ink > 60] / 255)[:, None] + rng.normal(0, 6, (mask.sum(), 3))
        for one in objects:
            one[1] &= ~mask
        objects.append([CATEGORY_IDS[labels[which]], mask, 0])
    if kind > 0.9:
        which = rng.integers(len(digits))
        small = np.asarray(Image.fromarray((digits[which] * 15.9).astype(np.uint8)).resize((8, 8)))
        crowd = np.zeros((HEIGHT, WIDTH), bool)
        for column in range(0, 48, 9):
            place = (slice(0, 8), slice(column, column + 8))
            crowd[place] = small > 60
            image[place][small > 60] = 220
        for one in objects:
            one[1] &= ~crowd
        objects.append([CATEGORY_IDS[labels[which]], crowd, 1])
    return image.clip(0, 255).astype(np.uint8), [one for one in objects if one[1].sum() >= 12]


def write(out: Path, split: str, count: int, rng: np.random.Generator, digits, labels) -> None:
    """Write the images and annotations of one split."""
    folder = out / f"{split}2017"
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels, objects = scene(rng, digits, labels)
        name = f"{number:012d}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category, mask, crowd in objects:
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": rle.toBbox(code).tolist(),
                    "area": float(rle.area(code)),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": CATEGORY_IDS[n], "name": str(n)} for n in range(10)]
    path = out / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--val", type=int, default=200)
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty; pass another folder")
    digits, labels = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8)
    held_out = np.arange(len(digits)) % 5 == 0
    rng = np.random.default_rng(0)
    write(args.out, "train", args.train, rng, digits[~held_out], labels[~held_out])
    write(args.out, "val", args.val, rng, digits[held_out], labels[held_out])


if __name__ == "__main__":
    main()

"""Measure the seconds of a training step of the recipes on this machine, on random images.

    python benchmarks/recipe_costs.py [--names gc-table1 cwn]
    python benchmarks/recipe_costs.py --device cuda --machine "one H200"

Prints ``step_seconds`` for the file of each recipe: the mean over its methods, from which
``zeromean tables`` estimates the duration. Image size and batch size are the published ones.
Recipes of training programs are left out. Run it on an idle machine; it uses one thread.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import torch

from zeromean.errors import ZeromeanError
from zeromean.recipes.cost import MAX_STEPS, measure
from zeromean.recipes.recipe import Recipe
from zeromean.recipes.registry import recipes
from zeromean.study.spec.task import ImageTask
from zeromean.study.tasks.images import image_problem

# Settings that only fit the published data.
DATA_SETTINGS = ("resize", "crop", "test_per_class", "split")


def random_images(recipe: Recipe, folder: Path) -> str:
    """Write random images of the published size, and return their name for ``data``."""
    channels, side, _ = recipe.data.shape
    channels = 3 if recipe.task.gray else channels
    batches = 4 if side > 32 else MAX_STEPS
    count = max(recipe.task.batch_size * batches, 2 * recipe.data.classes)
    shape = (count, side, side) if channels == 1 else (count, side, side, channels)
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    labels = np.arange(count) % recipe.data.classes
    arrays = {f"{part}_images": images for part in ("train", "test")}
    arrays |= {f"{part}_labels": labels for part in ("train", "test")}
    np.savez(folder / "random.npz", **arrays)
    return f"npz:{folder / 'random.npz'}"


def step_seconds(recipe: Recipe, device: str) -> float:
    """Return the mean seconds of a step over the methods of a recipe."""
    defaults = {name: getattr(ImageTask(), name) for name in DATA_SETTINGS}
    with TemporaryDirectory() as folder:
        data = random_images(recipe, Path(folder))
        task = msgspec.structs.replace(recipe.task, **defaults, data=data)
        study = msgspec.structs.replace(recipe.study, tasks=(task,), device=device, threads=1)
        problem = image_problem(task, torch.device(device))
        return statistics.fmean(
            measure(study, problem, method.label).step for method in study.methods
        )


def main() -> None:
    """Print one line per recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=[""], help="prefixes of the recipes' names")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--machine", default="one processor core")
    arguments = parser.parse_args()
    for recipe in recipes():
        if recipe.program is None and recipe.name.startswith(tuple(arguments.names)):
            try:
                seconds = f"{step_seconds(recipe, arguments.device):.3g}"
                line = f'step_seconds = {{ "{arguments.machine}" = {seconds} }}'
            except ZeromeanError as error:
                line = f"not measured: {error}"
            print(f"# {recipe.name}: {line}", flush=True)


if __name__ == "__main__":
    main()

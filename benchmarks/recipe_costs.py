"""Measure the seconds per training step of every recipe on this machine, on images of noise.

    python benchmarks/recipe_costs.py [--names gc-table1 cwn]
    python benchmarks/recipe_costs.py --device cuda --machine "one H200"

Prints the ``step_seconds`` of each recipe's file, the mean over its methods, from which
``zeromean tables`` estimates the cost. Images and batches have the published sizes. On a CPU it
measures the processor time of one thread, which does not depend on other programs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
from msgspec.structs import replace

from zeromean.errors import ZeromeanError
from zeromean.recipes.cost import MAX_STEPS, measure
from zeromean.recipes.recipe import Recipe
from zeromean.recipes.registry import recipes
from zeromean.study.spec.task import ImageTask
from zeromean.study.tasks import training
from zeromean.study.tasks.images import image_problem

# Settings that only the real data has.
FILE_SETTINGS = ("resize", "crop", "test_per_class", "split")


def noise(recipe: Recipe, folder: Path) -> str:
    """Write random images of the published size, and return their name for --data."""
    channels, side, _ = recipe.data.shape
    channels = 3 if recipe.task.gray else channels
    count = max(recipe.task.batch_size * (4 if side > 32 else MAX_STEPS), 2 * recipe.data.classes)
    shape = (count, side, side) if channels == 1 else (count, side, side, channels)
    pictures = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    labels = np.arange(count) % recipe.data.classes
    file = folder / "noise.npz"
    np.savez(
        file,
        train_images=pictures,
        train_labels=labels,
        test_images=pictures,
        test_labels=labels,
    )
    return f"npz:{file}"


def main() -> None:
    """Measure the recipes one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=[""], help="prefixes of names")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--machine", default="one processor core")
    chosen = parser.parse_args()
    if chosen.device == "cpu":
        training.time = SimpleNamespace(perf_counter=time.process_time)
    for recipe in recipes():
        if not recipe.name.startswith(tuple(chosen.names)):
            continue
        task = replace(recipe.task, **{name: getattr(ImageTask(), name) for name in FILE_SETTINGS})
        try:
            with TemporaryDirectory() as folder:
                task = replace(task, data=noise(recipe, Path(folder)))
                problem = image_problem(task, torch.device(chosen.device))
            study = replace(recipe.study, tasks=(task,), device=chosen.device, threads=1)
            steps = {
                name: measure(study, problem, name).step
                for name in study.trained_methods(study.optimizers[0].label)
            }
        except ZeromeanError as error:
            print(f"# {recipe.name}: {error}", flush=True)
            continue
        mean = statistics.fmean(steps.values())
        print(f'{recipe.name}: step_seconds = {{ "{chosen.machine}" = {mean:.3g} }}', flush=True)


if __name__ == "__main__":
    main()

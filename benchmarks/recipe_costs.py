"""Seconds of a training step of every recipe on this machine, on images of noise.

    python benchmarks/recipe_costs.py [--names gc-table1 cwn]
    python benchmarks/recipe_costs.py --device cuda --machine "one H200"

Prints, for each recipe, what belongs into its file: ``step_seconds``, the mean over its methods, by
which ``zeromean tables`` tells how long it takes. Images are as large and as many a batch as
published; more than that a step does not depend on. On a processor it is one thread's own time,
which does not depend on who else uses the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
from zeromean.study.engine.units import MEMBERS

from zeromean.errors import ZeromeanError
from zeromean.recipes.catalog import recipes
from zeromean.recipes.cost import MOST_STEPS, measured
from zeromean.recipes.recipe import Recipe
from zeromean.study.engine import train
from zeromean.study.engine.results import Facts
from zeromean.study.spec.task import ImageTask as Task
from zeromean.study.tasks.images import image_problem

# Settings of the real data alone.
OF_FILES = ("resize", "crop", "test_per_class", "split")


def noise(recipe: Recipe, folder: Path) -> str:
    """Images of the published size, enough for a few batches, in as many classes; their name."""
    channels, side, _ = recipe.data.shape
    channels = 3 if recipe.task.gray else channels
    count = max(recipe.task.batch_size * (4 if side > 32 else MOST_STEPS), 2 * recipe.data.classes)
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
    """Measure one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=[""], help="what names begin with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--machine", default="one processor core")
    chosen = parser.parse_args()
    if chosen.device == "cpu":
        train.time = SimpleNamespace(perf_counter=time.process_time)
    for recipe in recipes():
        if not recipe.name.startswith(tuple(chosen.names)):
            continue
        task = replace(recipe.task, **{name: getattr(Task, name) for name in OF_FILES})
        try:
            with TemporaryDirectory() as folder:
                task = replace(task, data=noise(recipe, Path(folder)))
                problem = image_problem(task, torch.device(chosen.device))
            study = replace(recipe.study, tasks=(task,), device=chosen.device, threads=1)
            stacked = Facts.of(study, task, problem).stacked
            steps = {
                name: measured(study, problem, name, members=MEMBERS if name in stacked else 1).step
                for name in study.method_labels
            }
        except ZeromeanError as error:
            print(f"# {recipe.name}: {error}", flush=True)
            continue
        mean = statistics.fmean(steps.values())
        print(f'{recipe.name}: step_seconds = {{ "{chosen.machine}" = {mean:.3g} }}', flush=True)


if __name__ == "__main__":
    main()

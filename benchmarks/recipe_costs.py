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
from types import SimpleNamespace

import torch

from zeromean.errors import ZeromeanError
from zeromean.recipes.catalogue import recipes
from zeromean.recipes.cost import MOST_STEPS, measured
from zeromean.recipes.recipe import Recipe
from zeromean.study.data.dataset import Dataset
from zeromean.study.engine import train
from zeromean.study.engine.units import MEMBERS
from zeromean.study.results import Facts
from zeromean.study.tasks import images


def noise(recipe: Recipe) -> Dataset:
    """Images of the published size, enough for a few batches, in as many classes."""
    channels, side, _ = recipe.data.shape
    channels = 3 if recipe.task.grey else channels
    count = max(recipe.task.batch_size * (4 if side > 32 else MOST_STEPS), 2 * recipe.data.classes)
    pictures = torch.randint(256, (count, channels, side, side), dtype=torch.uint8)
    labels = torch.arange(count) % recipe.data.classes
    names = tuple(map(str, range(recipe.data.classes)))
    return Dataset("noise", pictures, labels, pictures, labels, names, "none")


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
        study = replace(recipe.study, device=chosen.device, threads=1)
        task = replace(recipe.task, resize=None, crop=None)
        images.load = lambda text, size, recipe=recipe: noise(recipe)
        try:
            problem = images.image_problem(task, torch.device(chosen.device))
            study = replace(study, tasks=(task,))
            stacked = Facts.of(study, task, problem).stacked
            steps = {
                name: measured(study, problem, name, members=MEMBERS if name in stacked else 1).step
                for name in study.methods
            }
        except ZeromeanError as error:
            print(f"# {recipe.name}: {error}", flush=True)
            continue
        mean = statistics.fmean(steps.values())
        print(f'{recipe.name}: step_seconds = {{ "{chosen.machine}" = {mean:.3g} }}', flush=True)


if __name__ == "__main__":
    main()

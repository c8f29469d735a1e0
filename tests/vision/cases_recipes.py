"""Recipes of training programs to their end: the true networks, tiny images, generated files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import timm
import torch
from cases_programs import scenes, write_images, write_people
from typer.testing import CliRunner

from zeromean.cli.main import app
from zeromean.recipes import outcome, registry
from zeromean.recipes.metrics import METRICS
from zeromean.recipes.programs.detection import BACKBONES
from zeromean.recipes.recipe import Recipe
from zeromean.study.engine import results

__all__ = ["scenes"]
RECIPES = [recipe for recipe in registry.recipes() if recipe.program is not None]
# Later options of a command replace earlier ones.
SHORT = {
    "detection": "--min-size 64 --max-size 96 --proposals 100 --rois 32 --batch-size 2 --workers 0"
    " --warmup 1 --epochs 1 --drops",
    "reid": "--height 32 --width 16 --epochs 1 --drops --warmup 1 --identities 2 --images 2",
    "classification": "--resize 36 --size 32 --batch-size 4 --workers 0 --epochs 1 --drops"
    " --lr 0.001",
    "reinforce": "--episodes 10 --evaluate-every 5 --evaluations 1 --hidden 8",
}


def program(recipe: Recipe) -> str:
    return recipe.study.programs[0].label.rpartition(".")[2]


def write_data(recipe: Recipe, folder: Path, request: pytest.FixtureRequest) -> list[str]:
    """Write the data in the format of their authors; return the option."""
    form = recipe.data.form.partition(":")[0]
    if not form:
        return []
    if form == "coco":
        return ["--data", f"coco:{request.getfixturevalue('scenes')}"]
    if form == "market1501":
        write_people(folder)
    else:
        test = "test" if "test/" in recipe.data.note else "val"
        for place in [f"{part}/{name}" for part in ("train", test) for name in "abcdef"]:
            write_images(folder / place, ["1.png", "2.png"])
    return ["--data", f"{form}:{folder}"]


def write_weights(recipe: Recipe, path: Path) -> list[str]:
    assert recipe.program is not None
    if not recipe.program.weights:
        return []
    words = recipe.study.programs[0].command
    if program(recipe) == "detection":
        norm = {"norm_layer": torch.nn.BatchNorm2d}
        if "group" in words:
            norm = {"norm_layer": lambda channels: torch.nn.GroupNorm(32, channels)}
        network = BACKBONES[words[words.index("--backbone") + 1]](**norm)
    else:
        network = timm.create_model(words[words.index("--model") + 1])
    torch.save(network.state_dict(), path)
    return ["--weights", str(path)]


def shortened(recipe: Recipe) -> Recipe:
    (task,) = recipe.study.programs
    words = ["0.01" if word == "{lr}" else word for word in task.command]
    task = msgspec.structs.replace(task, command=(*words, *SHORT[program(recipe)].split()))
    study = msgspec.structs.replace(recipe.study, tasks=(task,), tuning=None, seeds=1, threads=1)
    return replace(recipe, study=study)


@pytest.mark.timeout(1800)  # a busy machine takes minutes for the largest
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            recipe.name, marks=[] if recipe.name == "reinforce-cartpole" else [pytest.mark.slow]
        )
        for recipe in RECIPES
    ],
)
def test_recipe_runs_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    recipe = shortened(registry.find(name))
    monkeypatch.setattr(registry, "recipes", lambda: (recipe,))
    monkeypatch.chdir(tmp_path)
    words = [*write_data(recipe, tmp_path / "data", request), *write_weights(recipe, Path("w.pt"))]
    # Each of two processes has batch statistics of its own.
    words += ["--processes", "2" if name == "gc-table3-resnet50" else "1"]
    done = CliRunner().invoke(app, ["reproduce", name, *words, "--yes"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / name / "published.md").read_text()
    for column in recipe.columns:
        assert f"**{column.title(recipe.paper)}: {METRICS[recipe.metrics[0]].label}**" in page
        for method in column.rows:
            number = column.number(recipe.paper, method)
            assert f"| {method} | {number or ''}" in page
    kept = outcome.read((tmp_path / name / "outcome.json").read_text())
    for metric in recipe.metrics:
        for method in recipe.study.method_labels:
            mean, _, runs = kept.measured[metric][method]
            assert runs == 1
            assert mean is not None
            assert math.isfinite(mean)
    assert kept.published_data == (not recipe.data.form)
    for run in results.read(tmp_path / name).runs:
        assert run.failure is None
    files = [*(tmp_path / name / "runs").glob("*/record.json")]
    assert files
    for file in files:
        assert json.loads(file.read_text())["optimizers"], file

"""``zeromean reproduce`` as a user meets it: every recipe to its end, tiny, or one clear line."""

from __future__ import annotations

import dataclasses
import html
import importlib
import json
import math
import os
import pickle
import re
import resource
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from study_files import patterns, write_cifar, write_miniimagenet
from torch import nn
from typer.testing import CliRunner
from zeromean.study.engine.train import Training
from zeromean.study.methods import Method
from zeromean.study.networks.from_timm import is_of_timm

import zeromean
from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.recipes import catalog, cost, outcome, side_by_side
from zeromean.recipes.agreement import agreement
from zeromean.recipes.conditions import Conditions
from zeromean.recipes.measures import MEASURES
from zeromean.recipes.page import page
from zeromean.recipes.published import Published
from zeromean.recipes.recipe import Recipe
from zeromean.recipes.shorten import shortened
from zeromean.study import Study, report, results
from zeromean.study.data.disk_images import Images
from zeromean.study.networks.build import NETWORKS
from zeromean.study.report.table import NOTHING
from zeromean.study.spec.metric import MINUS
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.load import load

RECIPES = catalog.recipes()
# The package has the command under this name.
COMMAND = importlib.import_module("zeromean.cli.reproduce")
LOAD = importlib.import_module("zeromean.study.tasks.load")
# Networks that take more than a second a step even on four images.
LARGE = (
    "resnet18", "resnet50", "resnet101", "resnext29", "vgg11", "densenet121", "googlenet",
    "googlenet-imagenet",
)  # fmt: skip


def color(images: np.ndarray) -> np.ndarray:
    return np.stack([images, images // 2, images // 4], axis=3)


def write_yaleb(folder: Path) -> str:
    """As the archive is: images without a split, labels as bytes."""
    images, labels = patterns(3 * 20, side=32)
    np.savez(folder / "faces.npz", images=images, labels=labels.astype(np.uint8))
    return f"npz:{folder / 'faces.npz'}"


def write_svhn(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    for part, seed in (("train", 0), ("test", 1)):
        images, labels = patterns(40, classes=10, side=32, seed=seed)
        content = {"X": color(images).transpose(1, 2, 3, 0), "y": labels[:, None] + 1}
        savemat(folder / f"{part}_32x32.mat", content)
    return f"svhn:{folder}"


def write_cifar_of(classes: int) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        write_cifar(folder, classes, each=10)
        return f"cifar:{folder}"

    return write


def write_pictures(folder: Path) -> str:
    for part, count, seed in (("train", 16, 0), ("test", 6, 1)):
        images, labels = patterns(count, classes=2, side=32, seed=seed)
        for number, (pixels, label) in enumerate(zip(color(images), labels, strict=True)):
            place = folder / part / ("horses", "humans")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:04d}.png")
    return f"imagefolder:{folder}"


def write_mini(folder: Path) -> str:
    classes = {"train": ("n01", "n02"), "val": ("n03",), "test": ("n04",)}
    write_miniimagenet(folder / "mini", classes, each=12)
    return f"miniimagenet:{folder / 'mini'}"


# By what --data takes and how many classes there are.
WRITERS: dict[tuple[str, int | None], Callable[[Path], str]] = {
    ("npz:FILE", None): write_yaleb,
    ("svhn:DIR", None): write_svhn,
    ("cifar:DIR", 10): write_cifar_of(10),
    ("cifar:DIR", 100): write_cifar_of(100),
    ("imagefolder:DIR", None): write_pictures,
    ("miniimagenet:DIR", None): write_mini,
}


def write_data(recipe: Recipe, folder: Path) -> str:
    """In the published format on disk."""
    form, classes = recipe.data.form, recipe.data.classes
    return WRITERS.get((form, classes), WRITERS.get((form, None), write_svhn))(folder)


class Small(nn.Sequential):
    """In the place of timm's networks: timm needs torchvision, which the tests go without."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 32, 8, stride=8),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, classes),
        )


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("timm")

    def create_model(name: str, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert name in ("resnet50", "resnet101", "resnet50.tv_in1k")
        assert pretrained == ("." in name)
        return Small(in_chans, num_classes)

    module.__version__ = "1.0"
    module.is_model, module.create_model = lambda name: True, create_model
    monkeypatch.setitem(sys.modules, "timm", module)


def tiny(recipe: Recipe) -> Recipe:
    """The recipe with one seed and the smallest of batches and grids."""
    study, task = recipe.study, recipe.task
    tuning = study.tuning
    if tuning is not None:
        # So low that nothing diverges on batches so small.
        tuning = dataclasses.replace(tuning, rates=(1e-3,), seeds=1, validation=0.25)
    # A step of the deep network of CIFAR takes long whatever the batch.
    batch_size = 25 if recipe.data.form == "cifar:DIR" else 4
    task = replace(task, batch_size=batch_size)
    if recipe.task.model in LARGE and task.schedule == "every=60":
        task = replace(task, epochs=100)  # one fall, for which two epochs are enough
    if task.schedule.startswith("halve="):
        # A run has few steps, but two or more, of which the second has half the rate.
        task = replace(task, schedule="halve=60", batch_size=12)
    return dataclasses.replace(
        recipe, study=replace(study, tasks=(task,), tuning=tuning, seeds=1)
    )


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = tuple(map(tiny, RECIPES))
    monkeypatch.setattr(catalog, "recipes", lambda: found)
    monkeypatch.setattr(cost, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(cost, "TIMES", 1)
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["reproduce", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def scale_of(recipe: Recipe) -> float:
    """The smallest that leaves the schedule room."""
    for epochs in range(1, recipe.task.epochs):
        with suppress(ZeromeanError):
            shortened(recipe.study, scale := float(f"{epochs / recipe.task.epochs:.3g}"))
            return scale
    raise AssertionError(recipe.name)


def check(recipe: Recipe, folder: Path) -> None:
    data, scale = write_data(recipe, folder), f"{scale_of(recipe):.3g}"
    code, stdout, stderr = invoke(recipe.name, "--data", data, "--scale", scale)
    assert (code, stderr) == (0, "")
    out = folder / f"{recipe.name}-scale-{scale}"
    found = results.read(out)
    assert found.study.methods == recipe.study.methods
    page = (out / "published.md").read_text(encoding="utf-8")
    for block in recipe.blocks:
        assert f"**{block.heading(recipe.paper)} (training shortened to {scale})" in page
        for method in block.rows:
            number = block.number(recipe.paper, method)
            assert f"| {method} | {number or ''}" in page
    for note in recipe.notes:
        assert note in page
        assert note in stdout
    # On a terminal a table has one measure, for there is no room for more.
    for name in recipe.measures:
        assert stdout.count(f": {MEASURES[name].label}\n") == len(recipe.blocks)
    told = outcome.read((out / "outcome.json").read_text(encoding="utf-8"))
    assert (told.recipe, f"{told.scale:g}", told.seeds) == (recipe.name, scale, 1)
    assert set(told.measured) == set(recipe.measures)
    # What is short says so wherever it is looked at, also in what the engine writes by itself.
    report = (out / "report.html").read_text(encoding="utf-8")
    for text in (page, stdout, report):
        assert f"Training is shortened (--scale {scale})" in " ".join(text.split())


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    "recipe",
    [one for one in RECIPES if one.task.model not in LARGE],
    ids=lambda one: one.name,
)
def test_a_recipe_runs_to_its_end(recipe: Recipe, tmp_path: Path) -> None:
    check(recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a busy machine takes several minutes for the largest
@pytest.mark.parametrize(
    "recipe", [one for one in RECIPES if one.task.model in LARGE], ids=lambda one: one.name
)
def test_a_recipe_of_a_large_network_runs_to_its_end(recipe: Recipe, tmp_path: Path) -> None:
    check(recipe, tmp_path)


@pytest.mark.usefixtures("timm")
def test_imagenet_needs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images lie in a file, as the real ones do; and the numbers are the same."""
    recipe = next(one for one in RECIPES if one.name == "gc-table3-resnet50")
    assert recipe.task.augment == "resized-crop-flip"
    data, scale = write_pictures(tmp_path / "files"), scale_of(recipe)
    arguments = [recipe.name, "--data", data, "--scale", f"{scale:.3g}"]
    monkeypatch.setenv("ZEROMEAN_CACHE", str(tmp_path / "cache"))
    found = []
    for memory in ("1", "0"):
        monkeypatch.setenv("ZEROMEAN_IMAGE_MEMORY", memory)
        code, stdout, stderr = invoke(*arguments, "--out", tmp_path / memory)
        assert code == 0, stderr
        assert "the middle 224x224" in stdout
        runs = results.read(tmp_path / memory).runs
        found.append([(run.key, run.test_loss, run.epochs[-1].train_loss) for run in runs])
    (images,) = (tmp_path / "cache").glob("*/images.bin")
    assert images.stat().st_size == 22 * 3 * 256 * 256
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "recipe",
    [one for one in RECIPES if not is_of_timm(one.task.model)],
    ids=lambda one: one.name,
)
def test_the_network_of_a_recipe_can_be_built_for_its_data(recipe: Recipe) -> None:
    """Of the published size, which the tiny runs have not."""
    channels, side, _ = recipe.data.shape
    with torch.device("meta"):
        network = NETWORKS[recipe.task.model](channels, side, recipe.data.classes)
        outputs = network(torch.empty(2, channels, side, side))
    assert outputs.shape == (2, recipe.data.classes)
    roles = {row.role for row in zeromean.explain(network)}
    for method in recipe.study.methods:
        assert all(part.needs in (None, *roles) for part in Method.parse(method).parts)


@pytest.fixture
def small(_tiny: None, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The only one that there is: three methods of a small network, with published numbers."""
    whole = catalog.find("cwn-svhn")
    methods = ("plain", "wn-unit", "cwn-unit")
    rows = {one: whole.blocks[0].rows[one] for one in methods}
    return alone(
        monkeypatch,
        dataclasses.replace(
            whole,
            blocks=(dataclasses.replace(whole.blocks[0], rows=rows),),
            study=dataclasses.replace(whole.study, methods=methods),
        ),
    )


def alone(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> Recipe:
    monkeypatch.setattr(catalog, "recipes", lambda: (recipe,))
    return recipe


def test_it_asks_before_it_takes_long(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_svhn(tmp_path)
    monkeypatch.setattr(COMMAND, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(Training, "run", lambda training: pytest.fail("a run was kept"))
    arguments = (small.name, "--data", data, "--scale", 0.005)
    code, stdout, stderr = invoke(*arguments)
    assert code == 2
    assert stderr.count("\n") == 1
    assert re.search(r"which takes about .*, where nobody can be asked; .* add --yes", stderr)
    # But the cost was told.
    assert re.search(r"6 runs, 6 epochs of 7 steps; a step took .* on this machine: about", stdout)
    assert not (tmp_path / f"{small.name}-scale-0.005").exists()


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_the_answer_counts(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(COMMAND, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(COMMAND, "can_ask", lambda: True)
    begun: list[object] = []
    monkeypatch.setattr(COMMAND, "train_study", lambda *arguments: begun.append(arguments))
    monkeypatch.setattr(COMMAND, "show", lambda *arguments: None)
    arguments = ["reproduce", small.name, "--data", write_svhn(tmp_path), "--scale", "0.01"]
    result = CliRunner().invoke(app, arguments, input=answer)
    assert "Go on?" in result.output
    assert (result.exit_code, len(begun)) == ((0, 1) if answer == "y\n" else (1, 0))
    begun.clear()
    assert CliRunner().invoke(app, [*arguments, "--yes"]).exit_code == 0
    assert len(begun) == 1


def test_numbers_are_held_against_those_published_of_such_data(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full length and on as many images as published, with seeds enough for intervals."""
    data = write_svhn(tmp_path)
    methods = small.study.methods
    tuning = dataclasses.replace(small.study.tuning, rates=(0.1,))
    task = dataclasses.replace(small.task, epochs=2)
    recipe = alone(
        monkeypatch,
        dataclasses.replace(
            small,
            data=dataclasses.replace(small.data, train=40, test=40),
            study=dataclasses.replace(small.study, tasks=(task,), tuning=tuning, seeds=5),
        ),
    )
    arguments = (recipe.name, "--data", data, "--out", "out")
    code, stdout, _ = invoke(*arguments)
    assert code == 0
    assert "shortened" not in stdout
    assert "Other data" not in stdout
    page = (tmp_path / "out" / "published.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0]: line.split(" | ") for line in page.splitlines() if "|" in line}
    runs = results.read(tmp_path / "out").comparisons[0]
    for method, published in zip(methods, ("18.98", "17.12", "16.16"), strict=True):
        cells = rows[f"| {method}"]
        errors = [100 * (1 - run.test_score) for run in runs.of(method).values()]
        mean, deviation = np.mean(errors), np.std(errors, ddof=1)
        assert cells[1] == published
        assert cells[2].startswith(f"{mean:.2f} ± {deviation:.2f}")
        told = agreement(errors, Published(float(published)), recipe.repeats)
        sign = "+" if told.difference > 0 else MINUS
        assert cells[3].startswith(f"{sign}{abs(told.difference):.2f}")
        assert cells[3].endswith(told.verdict)
        # Where all seeds come to the same there is no interval.
        assert ("(" in cells[2]) == bool(told.verdict) == (deviation > 0)
    (section,) = report.sections(results.read(tmp_path / "out"))
    for sentence in section.conclusions:
        assert sentence in stdout
        assert sentence in page
    assert rows["| plain"][4:] == [NOTHING, f"{NOTHING} |"]
    assert rows["| cwn-unit"][4] == f"{MINUS}2.82"
    # The same command once more trains nothing, and says the same.
    monkeypatch.setattr(Training, "advance", lambda training: pytest.fail("training began"))
    code, again, _ = invoke(*arguments)
    assert code == 0
    assert "Nothing is left to train." in again
    assert again.splitlines()[-20:] == stdout.splitlines()[-20:]


def test_data_without_the_published_counts_are_said_to_be_others(
    small: Recipe, tmp_path: Path
) -> None:
    _, stdout, _ = invoke(small.name, "--data", write_svhn(tmp_path), "--scale", "0.01")
    text = " ".join(stdout.split())
    assert "Other data than published: 40 train and 40 test images, 32x32x1, 10 classes" in text
    assert "less published" not in text


def test_a_run_that_diverged_is_counted_beside_the_others(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = dataclasses.replace(
        small.study, tuning=None, optimizers=("sgd+momentum=0+decay=0+lr=1e30",)
    )
    alone(monkeypatch, dataclasses.replace(small, study=study))
    code, stdout, _ = invoke(small.name, "--data", write_svhn(tmp_path), "--scale", "0.01")
    assert code == 0
    assert "1 of 1 diverged" in " ".join(stdout.split())
    text = (tmp_path / f"{small.name}-scale-0.01" / "outcome.json").read_text(encoding="utf-8")
    told = f"plain {NOTHING} (1 of 1 diverged), cwn-unit {NOTHING} (1 of 1 diverged)"
    assert outcome.read(text).lines(["plain", "cwn-unit"]) == [f"test error, %: {told}"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("gc-table9", "--data", "digits"), "recipe 'gc-table9'; wanted cwn-"),
        (("cwn-svhn",), "Missing option '--data'"),
        (("cwn-svhn", "--data", "svhn:nowhere"), "put train_32x32.mat and test_32x32.mat into"),
        (("cwn-svhn", "--data", "mnist"), "data 'mnist'; wanted digits"),
        (("cwn-svhn", "--data", "digits", "--scale", "0"), "scale = 0; wanted above 0, at most 1"),
        (("cwn-svhn", "--data", "digits", "--scale", "2"), "scale = 2; wanted above 0, at most 1"),
        (("cwn-svhn", "--data", "digits", "--seeds", "0"), "seeds = 0; wanted 1 or more"),
        (("cwn-svhn", "--data", "digits", "--jobs", "0"), "jobs = 0; wanted 1 or more"),
        (("cwn-svhn", "--data", "digits", "--device", "abacus"), "device abacus, which torch"),
        (("cwn-svhn", "--data", "text"), "model mlp-svhn for text; wanted lstm"),
        (
            ("cwn-table3-cifar10", "--data", "digits", "--scale", "0.001"),
            "in which the schedule drops=80,121 has no room",
        ),
    ],
)
def test_bad_input_ends_with_one_line_before_any_training(
    arguments: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Training, "advance", lambda training: pytest.fail("training began"))
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert line in stderr
    assert list(tmp_path.iterdir()) == []


def test_another_studys_folder_is_refused_before_anything_is_read(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_svhn(tmp_path)
    arguments = (small.name, "--data", data, "--out", "out")
    assert invoke(*arguments, "--scale", "0.005")[0] == 0
    monkeypatch.setattr(LOAD, "load", lambda study, task: pytest.fail("data were read"))
    code, stdout, stderr = invoke(*arguments, "--scale", "0.01")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "already holds a study with other settings" in stderr


def test_other_data_are_refused_before_the_cost_is_measured(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_svhn(tmp_path)
    arguments = (small.name, "--data", data, "--out", "out", "--scale", "0.005")
    assert invoke(*arguments)[0] == 0
    file = tmp_path / "test_32x32.mat"
    file.write_bytes((tmp_path / "train_32x32.mat").read_bytes())
    monkeypatch.setattr(cost, "cost", lambda *arguments: pytest.fail("steps were measured"))
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "with other data than the study" in stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--out", os.devnull), "which is a file"),
        (("--out", f"{os.devnull}/x"), "which cannot be used (Not a directory)"),
        (("--jobs", "2", "--ray", "localhost:1"), "jobs = 2 with ray localhost:1"),
        (("--ray", "nowhere"), "--ray nowhere, where no cluster can be reached"),
        (("--shard",), "shard in one process"),
    ],
)
def test_where_and_how_is_refused_before_anything_is_read(
    small: Recipe, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], line: str
) -> None:
    if "nowhere" in options:
        pytest.importorskip("ray")
    monkeypatch.setattr(LOAD, "load", lambda study, task: pytest.fail("data were read"))
    code, stdout, stderr = invoke(small.name, "--data", "digits", *options)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert line in stderr


def test_a_note_in_other_words_does_not_make_another_study(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (small.name, "--data", write_svhn(tmp_path), "--scale", "0.005", "--out", "out")
    assert invoke(*arguments)[0] == 0
    monkeypatch.setattr(Conditions, "note", "Another version's words.")
    assert invoke(*arguments)[0] == 0


def test_the_page_has_the_whole_command_as_it_was_typed(small: Recipe, tmp_path: Path) -> None:
    data = write_svhn(tmp_path / "with space")
    words = f"--data '{data}' --scale 0.005 --out out --threads 1 --precision bfloat16 --seeds 1"
    typed = ("reproduce", small.name, *shlex.split(words), "--yes")
    assert CliRunner().invoke(app, typed).exit_code == 0
    command = f"zeromean {shlex.join(typed)}"
    out = tmp_path / "out"
    assert f"\n    {command}\n" in (out / "published.md").read_text(encoding="utf-8")
    assert results.read(out).command == command
    assert html.escape(command) in (out / "report.html").read_text(encoding="utf-8").replace(
        "&#39;", "&#x27;"
    )
    # It can be given again.
    assert CliRunner().invoke(app, shlex.split(command)[1:]).exit_code == 0


def test_a_process_of_several_trains_what_the_first_one_sends(
    small: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others say nothing, ask nothing and measure nothing."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(LOAD, "load", lambda study, task: pytest.fail("data were read"))
    begun: list[Study] = []
    monkeypatch.setattr(Study, "run", lambda study, out, **ways: begun.append(study))
    assert invoke(small.name, "--data", "digits", "--shard") == (0, "", "")
    assert [study.tasks[0].data for study in begun] == ["digits"]


def write_gray(folder: Path) -> str:
    images, labels = patterns(80, classes=10, side=32)
    np.savez(folder / "gray.npz", images=images, labels=labels)
    return f"npz:{folder / 'gray.npz'}"


@pytest.mark.parametrize(
    ("name", "write", "line"),
    [
        ("cwn-svhn", write_gray, "fix: pass such data, or change gray in the file"),
        ("tutorial-horses", lambda folder: "digits", "fix: pass larger images, or change model in"),
        ("cwn-yaleb", write_svhn, "fix: pass such data, or change test_per_class in the file"),
        ("gc-table4-cub", write_svhn, "fix: pass such files, or change resize in the file"),
        ("cwn-svhn", lambda folder: "text", "fix: pass images, or change model in the file"),
    ],
)
def test_a_fix_is_one_that_this_command_has(
    name: str, write: Callable[[Path], str], line: str, tmp_path: Path
) -> None:
    """It never tells to change what the recipe sets, but where that can be changed."""
    code, _, stderr = invoke(name, "--data", write(tmp_path))
    assert (code, stderr.count("\n")) == (2, 1)
    assert line in stderr
    assert stderr.rstrip().endswith("in the file that --study-file FILE writes")


def test_what_a_process_refuses_keeps_the_name_of_its_setting() -> None:
    error = SettingError("batch_size", "too many", "fewer", "lower it", "use a larger device")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is SettingError
    assert str(copy) == str(error)
    assert str(copy.settled("there")) == str(error.settled("there"))


def test_the_recipe_as_a_file_can_be_changed_and_run(small: Recipe, tmp_path: Path) -> None:
    data = write_svhn(tmp_path)
    arguments = (small.name, "--data", data, "--scale", "0.01", "--study-file", "mine.toml")
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout, stderr) == (0, "mine.toml\n", "")
    assert toml.read(Path("mine.toml")) == shortened(small.on(data), 0.01)
    # Nothing that is there is lost.
    code, _, stderr = invoke(*arguments)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "--study-file mine.toml, which cannot be format_number" in stderr


def test_of_a_file_that_a_full_disk_cuts_off_nothing_is_left(small: Recipe, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        code, _, stderr = invoke(small.name, "--data", "svhn:x", "--study-file", "mine.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "mine.toml, which cannot be format_number ([Errno 27] File too large)" in stderr
    assert not Path("mine.toml").exists()


@pytest.mark.parametrize("place", ["a-file/mine.toml", "none/mine.toml", f"{'x' * 300}.toml"])
def test_a_study_file_that_cannot_be_is_refused_in_a_line(
    small: Recipe, tmp_path: Path, place: str
) -> None:
    Path("a-file").touch()
    code, _, stderr = invoke(small.name, "--data", "svhn:x", "--study-file", place)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"--study-file {place}, which cannot be format_number" in stderr


def test_what_is_held_against_the_papers_is_kept_where_the_report_cannot_be(
    small: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    code, _, stderr = invoke(
        small.name, "--data", write_svhn(tmp_path), "--scale", "0.01", "--out", "out"
    )
    assert (code, stderr.count("\n")) == (2, 1)
    assert "make room, then: zeromean report out" in stderr
    assert (tmp_path / "out" / "published.md").is_file()
    assert (tmp_path / "out" / "outcome.json").is_file()


@pytest.mark.parametrize(
    "option", ["--yes", "--out=o", "--jobs=2", "--ray=h:1", "--shard", "--tensorboard"]
)
def test_a_file_that_is_written_takes_no_option_of_training(
    option: str, small: Recipe, tmp_path: Path
) -> None:
    code, _, stderr = invoke(small.name, "--data", "svhn:x", "--study-file", "mine.toml", option)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"--study-file with {option.partition('=')[0]}; wanted one of them" in stderr
    assert [*tmp_path.iterdir()] == []


def test_a_cost_is_of_what_is_left(small: Recipe, tmp_path: Path) -> None:
    study = dataclasses.replace(
        small.on(write_svhn(tmp_path)), methods=("plain", "cwn-unit"), seeds=2
    )
    study = replace(study, tasks=(replace(study.tasks[0], epochs=3),))
    problem = load(study, study.tasks[0])
    whole = cost.cost(study, problem, tmp_path / "out")
    assert (whole.runs, whole.epochs, whole.steps) == (2 + 4, 18, 7)
    speeds = whole.speeds
    # Trials see the validation images alone, the others also all training and test images.
    scored = 9 * speeds["plain"].example * 10 + 2 * speeds["plain"].example * (30 + 40)
    steps = 9 * 7 * speeds["plain"].step
    other = speeds["cwn-unit"]
    scored += 9 * other.example * 10 + 2 * other.example * (30 + 40)
    assert math.isclose(whole.seconds, steps + scored + 9 * 7 * other.step)
    run(study, tmp_path / "out")
    assert cost.cost(study, problem, tmp_path / "out").runs == 0


def test_the_cost_fits_what_is_done_to_images_once(small: Recipe, tmp_path: Path) -> None:
    study = small.on(write_svhn(tmp_path), seeds=1)
    problem = load(study, study.tasks[0])
    fitted = []

    def fit(inputs: Images) -> Callable[[torch.Tensor], torch.Tensor]:
        fitted.append(len(inputs))
        return problem.fit(inputs)

    counted = replace(problem, fit=fit)
    assert len(cost.cost(study, counted, tmp_path / "out").speeds) == 3
    assert len(fitted) == 1


def test_the_cost_does_not_change_how_many_threads_there_are(small: Recipe, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    study = dataclasses.replace(small.on(write_svhn(tmp_path)), threads=2)
    cost.measured(study, load(study, study.tasks[0]), "plain")
    assert torch.get_num_threads() == before


def test_the_page_says_that_seeds_came_later(small: Recipe, tmp_path: Path) -> None:
    data = write_svhn(tmp_path)
    assert invoke(small.name, "--data", data, "--scale", "0.01", "--out", "out")[0] == 0
    found = results.read(tmp_path / "out")
    study = dataclasses.replace(found.study, note=None)
    conditions = Conditions.of(small, study, load(study, study.tasks[0]), 0.01)
    tables = side_by_side.tables(small, found, conditions.comparable)
    assert "finished with" not in page(conditions, found, tables)
    grown = dataclasses.replace(found, begun=(2, 4))
    text = page(conditions, grown, tables)
    assert "seed(s); finished with 2 and then with 4 before more came." in text


def test_outcomes_are_json_that_can_be_kept(small: Recipe, tmp_path: Path) -> None:
    invoke(small.name, "--data", write_svhn(tmp_path), "--scale", "0.01", "--out", "out")
    text = (tmp_path / "out" / "outcome.json").read_text(encoding="utf-8")
    kept = outcome.read(text)
    assert json.loads(text)["measured"].keys() == {"error"}
    assert kept.published_data is False
    (line,) = kept.lines(["plain", "cwn-unit"])
    assert re.fullmatch(r"test error, %: plain [\d.]+, cwn-unit [\d.]+", line)

"""``zeromean reproduce`` as a user meets it: every recipe to its end, tiny, or one clear line."""

from __future__ import annotations

import dataclasses
import html
import importlib
import json
import math
import os
import re
import resource
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from study_files import patterns, write_cifar, write_miniimagenet
from torch import nn
from typer.testing import CliRunner

from zeromean.cli.main import app
from zeromean.errors import ZeromeanError
from zeromean.recipes import cost, outcome, registry
from zeromean.recipes.agreement_test import agreement
from zeromean.recipes.comparison import page, tables
from zeromean.recipes.metrics import METRICS
from zeromean.recipes.published import Published
from zeromean.recipes.recipe import Recipe
from zeromean.recipes.run_conditions import RunConditions
from zeromean.recipes.scale import scaled
from zeromean.study import Schedule, report, run
from zeromean.study.data.disk_images import Images
from zeromean.study.engine import results
from zeromean.study.networks.build import NETWORKS
from zeromean.study.report.table import MISSING
from zeromean.study.spec import presets, toml
from zeromean.study.spec.metric import MINUS
from zeromean.study.tasks.apply_method import check_layers
from zeromean.study.tasks.load import load_problem
from zeromean.study.tasks.training import Training
from zeromean.tables import Table

RECIPES = tuple(recipe for recipe in registry.recipes() if recipe.program is None)
replace = msgspec.structs.replace
COMMAND = importlib.import_module("zeromean.cli.reproduce")
LOAD = importlib.import_module("zeromean.study.tasks.load")
# Networks that take more than a second per step even on four images.
LARGE = (
    "resnet18", "resnet50", "resnet101", "resnext29", "vgg11", "densenet121", "googlenet",
    "googlenet-imagenet",
)  # fmt: skip
# Recipes whose network, schedule and form of data other recipes have.
REPEATED = ("cwn-figure4a", "cwn-svhn", "cwn-table3-cifar100")


def color(images: np.ndarray) -> np.ndarray:
    return np.stack([images, images // 2, images // 4], axis=3)


def write_yaleb(folder: Path) -> str:
    """Write images without a split and labels as bytes, as in the published archive."""
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


# By the form of --data and the number of classes.
WRITERS: dict[tuple[str, int | None], Callable[[Path], str]] = {
    ("npz:FILE", None): write_yaleb,
    ("svhn:DIR", None): write_svhn,
    ("cifar:DIR", 10): write_cifar_of(10),
    ("cifar:DIR", 100): write_cifar_of(100),
    ("imagefolder:DIR", None): write_pictures,
    ("miniimagenet:DIR", None): write_mini,
}


def write_data(recipe: Recipe, folder: Path) -> str:
    """Write the data in the format that their authors publish."""
    form, classes = recipe.data.form, recipe.data.classes
    return WRITERS.get((form, classes), WRITERS.get((form, None), write_svhn))(folder)


class Small(nn.Sequential):
    """A stand-in for timm's networks."""

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
        assert (name, pretrained) == ("resnet50", False)
        return Small(in_chans, num_classes)

    module.__version__ = "1.0"
    module.is_model, module.create_model = lambda name: True, create_model
    monkeypatch.setitem(sys.modules, "timm", module)


def tiny(recipe: Recipe) -> Recipe:
    """Return the recipe with one seed and the smallest batches and grids."""
    study, task = recipe.study, recipe.task
    tuning = study.tuning
    if tuning is not None:
        # Low enough that nothing diverges on batches this small.
        tuning = replace(tuning, rates=(1e-3,), seeds=1, validation=0.25)
    # A step of CIFAR's deep networks takes long whatever the batch.
    task = replace(task, batch_size=25 if recipe.data.form == "cifar:DIR" else 4)
    if recipe.task.model in LARGE and task.schedule.every == 60:
        task = replace(task, epochs=100)  # one fall, for which two epochs are enough
    if task.schedule.kind == "halve":
        # A run has few steps, but at least two, and the second has half the rate.
        task = replace(task, schedule=Schedule("halve", steps=60), batch_size=12)
    return dataclasses.replace(recipe, study=replace(study, tasks=(task,), tuning=tuning, seeds=1))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = tuple(map(tiny, RECIPES))
    monkeypatch.setattr(registry, "recipes", lambda: found)
    monkeypatch.setattr(cost, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(cost, "MEASUREMENTS", 1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_step_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimate the cost of each method from its first step."""
    monkeypatch.setattr(cost, "SLOW_SECONDS", 0.0)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["reproduce", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def scale_of(recipe: Recipe) -> float:
    """Return the smallest scale at which the schedule fits."""
    for epochs in range(1, recipe.task.epochs):
        with suppress(ZeromeanError):
            scaled(recipe.study, scale := float(f"{epochs / recipe.task.epochs:.3g}"))
            return scale
    raise AssertionError(recipe.name)


def check(recipe: Recipe, folder: Path) -> None:
    data, scale = write_data(recipe, folder), f"{scale_of(recipe):.3g}"
    code, stdout, stderr = invoke(recipe.name, "--data", data, "--scale", scale, "--yes")
    assert code == 0, stderr
    out = folder / f"{recipe.name}-scale-{scale}"
    found = results.read(out)
    assert found.study.methods == recipe.study.methods
    page = (out / "published.md").read_text(encoding="utf-8")
    for column in recipe.columns:
        assert f"**{column.title(recipe.paper)} (training shortened to {scale})" in page
        for method in column.rows:
            number = column.number(recipe.paper, method)
            assert f"| {method} | {number or ''}" in page
    for note in recipe.notes:
        assert note in page
        assert note in stdout
    for name in recipe.metrics:
        assert stdout.count(f": {METRICS[name].label}\n") == len(recipe.columns)
    kept = outcome.read((out / "outcome.json").read_text(encoding="utf-8"))
    assert (kept.recipe, f"{kept.scale:g}", kept.seeds) == (recipe.name, scale, 1)
    assert set(kept.measured) == set(recipe.metrics)
    # Every output says that the training is shortened.
    html_page = (out / "report.html").read_text(encoding="utf-8")
    for text in (page, stdout, html_page):
        assert f"Training is shortened (--scale {scale})" in " ".join(text.split())


def is_slow(recipe: Recipe) -> bool:
    return recipe.task.model in LARGE or recipe.name in REPEATED


@pytest.mark.usefixtures("timm", "one_step_measured")
@pytest.mark.parametrize(
    "recipe", [one for one in RECIPES if not is_slow(one)], ids=lambda one: one.name
)
def test_recipe_runs_to_its_end(recipe: Recipe, tmp_path: Path) -> None:
    check(recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a busy machine takes several minutes for the largest
@pytest.mark.parametrize(
    "recipe", [one for one in RECIPES if is_slow(one)], ids=lambda one: one.name
)
def test_slow_recipe_runs_to_its_end(recipe: Recipe, tmp_path: Path) -> None:
    check(recipe, tmp_path)


@pytest.mark.usefixtures("timm")
def test_imagenet_needs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images on disk, as the real ones are, give the same numbers."""
    recipe = next(one for one in RECIPES if one.name == "gc-figure5")
    assert recipe.task.augment == "resized-crop-flip"
    data, scale = write_pictures(tmp_path / "files"), scale_of(recipe)
    arguments = [recipe.name, "--data", data, "--scale", f"{scale:.3g}"]
    monkeypatch.setenv("ZEROMEAN_CACHE", str(tmp_path / "cache"))
    found = []
    for memory in ("1", "0"):
        monkeypatch.setenv("ZEROMEAN_IMAGE_MEMORY", memory)
        code, stdout, stderr = invoke(*arguments, "--out", tmp_path / memory)
        assert code == 0, stderr
        assert "middle 224x224" in " ".join(stdout.split())
        runs = results.read(tmp_path / memory).runs
        found.append([(run.key, run.test_loss, run.epochs[-1].train_loss) for run in runs])
    (images,) = (tmp_path / "cache").glob("*/images.arrow")
    assert images.stat().st_size > 22 * 3 * 256 * 256
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "recipe",
    [one for one in RECIPES if not one.task.model.startswith("timm:")],
    ids=lambda one: one.name,
)
def test_network_of_a_recipe_can_be_built_for_images_of_the_published_size(recipe: Recipe) -> None:
    channels, side, _ = recipe.data.shape
    with torch.device("meta"):
        network = NETWORKS[recipe.task.model](channels, side, recipe.data.classes)
        outputs = network(torch.empty(2, channels, side, side))
    assert outputs.shape == (2, recipe.data.classes)
    for method in recipe.study.methods:
        check_layers(network, method, recipe.name)


@pytest.fixture
def small(_tiny: None, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The only recipe: three methods of a small network, with published numbers."""
    whole = registry.find("cwn-svhn")
    methods = ("plain", "wn-unit", "cwn-unit")
    rows = {one: whole.columns[0].rows[one] for one in methods}
    return alone(
        monkeypatch,
        dataclasses.replace(
            whole,
            columns=(dataclasses.replace(whole.columns[0], rows=rows),),
            study=replace(whole.study, methods=tuple(map(presets.method, methods))),
        ),
    )


def alone(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> Recipe:
    monkeypatch.setattr(registry, "recipes", lambda: (recipe,))
    return recipe


def test_long_run_needs_a_confirmation(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_svhn(tmp_path)
    monkeypatch.setattr(COMMAND, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(Training, "run", lambda training: pytest.fail("a run was kept"))
    arguments = (small.name, "--data", data, "--scale", 0.005)
    code, stdout, stderr = invoke(*arguments)
    assert code == 2
    assert stderr.count("\n") == 1
    assert re.search(r"takes about .*, which needs a confirmation.* Add --yes", stderr)
    # The cost comes first.
    assert re.search(r"6 runs, 6 epochs of 7 steps; a step took .* on this machine: about", stdout)
    assert not (tmp_path / f"{small.name}-scale-0.005").exists()


def test_closed_standard_input_cannot_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert not COMMAND.can_ask()


def test_brackets_and_colons_in_tables_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    COMMAND._print_wrapped(Table(("method", "score"), [("gc[conv]:star:", "0.5 [a]")]))
    assert "gc[conv]:star:" in (out := capsys.readouterr().out)
    assert "0.5 [a]" in out


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_answer_decides(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(COMMAND, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(COMMAND, "can_ask", lambda: True)
    begun: list[object] = []
    monkeypatch.setattr(COMMAND, "train_study", lambda *arguments: begun.append(arguments))
    monkeypatch.setattr(COMMAND, "show", lambda *arguments: None)
    arguments = ["reproduce", small.name, "--data", write_svhn(tmp_path), "--scale", "0.01"]
    result = CliRunner().invoke(app, arguments, input=answer)
    assert "Continue?" in result.output
    assert (result.exit_code, len(begun)) == ((0, 1) if answer == "y\n" else (1, 0))
    begun.clear()
    assert CliRunner().invoke(app, [*arguments, "--yes"]).exit_code == 0
    assert len(begun) == 1


def test_numbers_are_compared_with_published_ones_of_such_data(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole training, as many images as published, and enough seeds for intervals."""
    data = write_svhn(tmp_path)
    methods = small.study.method_labels
    tuning = replace(small.study.tuning, rates=(0.1,))
    task = replace(small.task, epochs=2)
    recipe = alone(
        monkeypatch,
        dataclasses.replace(
            small,
            data=dataclasses.replace(small.data, train=40, test=40),
            study=replace(small.study, tasks=(task,), tuning=tuning, seeds=5),
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
        found = agreement(errors, Published(float(published)), recipe.repeats)
        sign = "+" if found.difference > 0 else MINUS
        assert cells[3].startswith(f"{sign}{abs(found.difference):.2f}")
        assert cells[3].endswith(found.verdict)
        # Equal numbers have no interval.
        assert ("(" in cells[2]) == bool(found.verdict) == (deviation > 0)
    (section,) = report.sections(results.read(tmp_path / "out"))
    for conclusion in section.conclusions:
        assert str(conclusion) in stdout
        assert str(conclusion) in page
    assert rows["| plain"][4:] == [MISSING, f"{MISSING} |"]
    assert rows["| cwn-unit"][4] == f"{MINUS}2.82"
    # The same command once more trains nothing, and says the same.
    monkeypatch.setattr(Training, "advance", lambda training: pytest.fail("training began"))
    code, again, _ = invoke(*arguments)
    assert code == 0
    assert "Nothing is left to train." in again
    assert again.splitlines()[-20:] == stdout.splitlines()[-20:]


def test_other_data_than_published_are_named(small: Recipe, tmp_path: Path) -> None:
    _, stdout, _ = invoke(small.name, "--data", write_svhn(tmp_path), "--scale", "0.01")
    text = " ".join(stdout.split())
    assert "Other data than published: 40 train and 40 test images, 32x32x1, 10 classes" in text
    assert "minus published" not in text


def test_diverged_run_is_counted(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (optimizer,) = small.study.optimizers
    study = replace(small.study, tuning=None, optimizers=(replace(optimizer, lr=1e30),))
    alone(monkeypatch, dataclasses.replace(small, study=study))
    out = tmp_path / "out"
    words = (small.name, "--data", write_svhn(tmp_path), "--scale", "0.01", "--out", out)
    assert invoke(*words)[0] == 0
    assert f"{MISSING}, 1 of 1 did not finish" in (out / "published.md").read_text(encoding="utf-8")
    text = (out / "outcome.json").read_text(encoding="utf-8")
    cells = ", ".join(f"{one} {MISSING} (1 of 1 did not finish)" for one in ("plain", "cwn-unit"))
    assert outcome.read(text).lines(without=["wn-unit"]) == [f"test error, %: {cells}"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("gc-table9", "--data", "digits"), "the recipe 'gc-table9' is not one of cwn-"),
        (("cwn-svhn",), "--data is missing; cwn-svhn needs SVHN, cropped digits (svhn:DIR)"),
        (("cwn-svhn", "--data", "digits", "--weights", "w.pt"), "takes no pretrained weights"),
        (("cwn-svhn", "--data", "digits", "--processes", "2"), "runs in this process"),
        (("cwn-svhn", "--data", "svhn:nowhere"), "Put train_32x32.mat and test_32x32.mat"),
        (("cwn-svhn", "--data", "mnist"), "'mnist'"),
        (
            ("cwn-svhn", "--data", "digits", "--scale", "0"),
            "scale is 0; it has to be above 0 and at most 1",
        ),
        (
            ("cwn-svhn", "--data", "digits", "--scale", "2"),
            "scale is 2; it has to be above 0 and at most 1",
        ),
        (("cwn-svhn", "--data", "digits", "--seeds", "0"), "seeds is 0"),
        (("cwn-svhn", "--data", "digits", "--jobs", "0"), "jobs is 0"),
        (
            ("cwn-svhn", "--data", "digits", "--device", "abacus"),
            'torch cannot use the device "abacus"',
        ),
        (("cwn-svhn", "--data", "text"), 'model "mlp-svhn" does not read text'),
        (
            ("cwn-table3-cifar10", "--data", "digits", "--scale", "0.001"),
            "the schedule multistep:80,121 has no room",
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


def test_folder_of_another_study_is_refused_before_data_are_read(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_svhn(tmp_path)
    arguments = (small.name, "--data", data, "--out", "out")
    assert invoke(*arguments, "--scale", "0.005")[0] == 0
    monkeypatch.setattr(LOAD, "load_problem", lambda *_: pytest.fail("data were read"))
    code, stdout, stderr = invoke(*arguments, "--scale", "0.01")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "the folder out holds a study with other settings" in stderr
    assert stderr.endswith("Pass another folder as out (on the command line: --out FOLDER).\n")


def test_other_data_are_refused_before_the_cost_is_measured(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_svhn(tmp_path)
    arguments = (small.name, "--data", data, "--out", "out", "--scale", "0.005")
    assert invoke(*arguments)[0] == 0
    file = tmp_path / "test_32x32.mat"
    file.write_bytes((tmp_path / "train_32x32.mat").read_bytes())
    monkeypatch.setattr(cost, "estimate", lambda *_: pytest.fail("steps were measured"))
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "does not have the data that the study began with" in stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--out", os.devnull), "is a file"),
        (("--out", f"{os.devnull}/x"), "cannot be used (Not a directory)"),
        (("--jobs", "2", "--ray", "localhost:1"), "jobs and ray are both given"),
        (("--ray", "nowhere"), "nowhere"),
    ],
)
def test_bad_folder_or_executor_is_refused_before_data_are_read(
    small: Recipe, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], line: str
) -> None:
    if "nowhere" in options:
        pytest.importorskip("ray")
    monkeypatch.setattr(LOAD, "load_problem", lambda *_: pytest.fail("data were read"))
    code, stdout, stderr = invoke(small.name, "--data", "digits", *options)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert line in stderr


def test_note_in_other_words_does_not_make_another_study(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (small.name, "--data", write_svhn(tmp_path), "--scale", "0.005", "--out", "out")
    assert invoke(*arguments)[0] == 0
    monkeypatch.setattr(RunConditions, "note", "Words of another version.")
    assert invoke(*arguments)[0] == 0


def test_page_shows_the_command_as_typed(small: Recipe, tmp_path: Path) -> None:
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


def write_gray(folder: Path) -> str:
    images, labels = patterns(80, classes=10, side=32)
    np.savez(folder / "gray.npz", images=images, labels=labels)
    return f"npz:{folder / 'gray.npz'}"


@pytest.mark.parametrize(
    ("name", "write", "line"),
    [
        ("cwn-svhn", write_gray, "or change gray in the file"),
        ("tutorial-horses", lambda folder: "digits", "or change model in"),
        ("cwn-yaleb", write_svhn, "or change test_per_class in the file"),
        ("gc-figure5", write_svhn, "or change resize in the file"),
        ("cwn-svhn", lambda folder: "text", "ass images, or change model in the file"),
    ],
)
def test_fix_is_one_that_this_command_has(
    name: str, write: Callable[[Path], str], line: str, tmp_path: Path
) -> None:
    """Settings of the recipe can be changed in a file, which the fix names."""
    code, _, stderr = invoke(name, "--data", write(tmp_path))
    assert (code, stderr.count("\n")) == (2, 1)
    assert line in stderr
    assert stderr.rstrip().endswith("in the file that --study-file FILE writes.")


def test_study_file_of_a_recipe_declares_its_study(small: Recipe, tmp_path: Path) -> None:
    data = write_svhn(tmp_path)
    arguments = (small.name, "--data", data, "--scale", "0.01", "--study-file", "mine.toml")
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout, stderr) == (0, "mine.toml\n", "")
    assert toml.read(Path("mine.toml")) == scaled(small.on(data), 0.01)
    # An existing file is kept.
    code, _, stderr = invoke(*arguments)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "--study-file mine.toml cannot be written" in stderr


def test_study_file_on_a_full_disk_is_removed(small: Recipe, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        code, _, stderr = invoke(small.name, "--data", "svhn:x", "--study-file", "mine.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "mine.toml cannot be written ([Errno 27] File too large)" in stderr
    assert not Path("mine.toml").exists()


@pytest.mark.parametrize("place", ["a-file/mine.toml", "none/mine.toml", f"{'x' * 300}.toml"])
def test_study_file_that_cannot_be_written_is_refused_in_one_line(
    small: Recipe, tmp_path: Path, place: str
) -> None:
    Path("a-file").touch()
    code, _, stderr = invoke(small.name, "--data", "svhn:x", "--study-file", place)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"--study-file {place} cannot be written" in stderr


def test_comparison_is_written_even_if_the_report_cannot_be(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    code, _, stderr = invoke(
        small.name, "--data", write_svhn(tmp_path), "--scale", "0.01", "--out", "out"
    )
    assert code == 2
    assert "then run: zeromean report out" in stderr
    assert (tmp_path / "out" / "published.md").is_file()
    assert (tmp_path / "out" / "outcome.json").is_file()


@pytest.mark.parametrize("option", ["--yes", "--out=o", "--jobs=2", "--ray=h:1", "--tensorboard"])
def test_study_file_takes_no_option_of_running(option: str, small: Recipe, tmp_path: Path) -> None:
    code, _, stderr = invoke(small.name, "--data", "svhn:x", "--study-file", "mine.toml", option)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"{option.partition('=')[0]} has no effect with --study-file" in stderr
    assert [*tmp_path.iterdir()] == []


def test_cost_counts_what_is_left(small: Recipe, tmp_path: Path) -> None:
    study = replace(
        small.on(write_svhn(tmp_path)),
        methods=tuple(map(presets.method, ("plain", "cwn-unit"))),
        seeds=2,
    )
    study = replace(study, tasks=(replace(study.tasks[0], epochs=3),))
    problem = load_problem(study, study.tasks[0])
    whole = cost.estimate(study, problem, tmp_path / "out")
    assert (whole.runs, whole.epochs, whole.steps) == (2 + 4, 18, 7)
    speeds = whole.speeds
    # Trials score the validation images alone, other runs also all training and test images.
    scored = 9 * speeds["plain"].example * 10 + 2 * speeds["plain"].example * (30 + 40)
    steps = 9 * 7 * speeds["plain"].step
    other = speeds["cwn-unit"]
    scored += 9 * other.example * 10 + 2 * other.example * (30 + 40)
    assert math.isclose(whole.seconds, steps + scored + 9 * 7 * other.step)
    run(study, tmp_path / "out")
    assert cost.estimate(study, problem, tmp_path / "out").runs == 0


def test_cost_of_more_processes_than_runs_is_that_of_the_longest_run(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tuning the test images are scored after each epoch and not again at the end."""
    speeds = {"plain": cost.Speed(1.0, 0.1), "wn-unit": cost.Speed(2.0, 0.1)}
    monkeypatch.setattr(cost, "measure", lambda study, problem, method, jobs: speeds[method])
    methods = tuple(map(presets.method, speeds))
    study = replace(small.on(write_svhn(tmp_path)), methods=methods, seeds=1, tuning=None)
    study = replace(study, tasks=(replace(study.tasks[0], epochs=3),))
    problem = load_problem(study, study.tasks[0])
    times = [3 * (10 * speed.step + 40 * 0.1) + 40 * 0.1 for speed in speeds.values()]
    for jobs, seconds in ((1, sum(times)), (2, times[1]), (8, times[1])):
        found = cost.estimate(study, problem, tmp_path / "out", jobs)
        assert math.isclose(found.seconds, seconds)


def test_cost_fits_the_preprocessing_once(small: Recipe, tmp_path: Path) -> None:
    study = small.on(write_svhn(tmp_path), seeds=1)
    problem = load_problem(study, study.tasks[0])
    fitted = []

    def fit(inputs: Images) -> Callable[[torch.Tensor], torch.Tensor]:
        fitted.append(len(inputs))
        return problem.fit(inputs)

    counted = dataclasses.replace(problem, fit=fit)
    assert len(cost.estimate(study, counted, tmp_path / "out").speeds) == 3
    assert len(fitted) == 1


def test_cost_restores_the_number_of_threads(small: Recipe, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    study = replace(small.on(write_svhn(tmp_path)), threads=2)
    cost.measure(study, load_problem(study, study.tasks[0]), "plain")
    assert torch.get_num_threads() == before


def test_outcome_names_all_devices(small: Recipe, tmp_path: Path) -> None:
    data = write_svhn(tmp_path)
    assert invoke(small.name, "--data", data, "--scale", "0.01", "--out", "out")[0] == 0
    found = results.read(tmp_path / "out")
    sessions = tuple(found.sessions[0] | {"device": one} for one in ("cuda", "cpu", "cpu"))
    study = replace(found.study, note=None)
    conditions = RunConditions.of(small, study, load_problem(study, study.tasks[0]), 0.01)
    moved = outcome.Outcome.of(conditions, dataclasses.replace(found, sessions=sessions))
    assert moved.device == "cuda, cpu"


def test_page_says_that_seeds_came_later(small: Recipe, tmp_path: Path) -> None:
    data = write_svhn(tmp_path)
    assert invoke(small.name, "--data", data, "--scale", "0.01", "--out", "out")[0] == 0
    found = results.read(tmp_path / "out")
    study = replace(found.study, note=None)
    conditions = RunConditions.of(small, study, load_problem(study, study.tasks[0]), 0.01)
    compared = tables(conditions, found)
    assert "finished with" not in page(conditions, found, compared)
    grown = dataclasses.replace(found, begun=(2, 4))
    text = page(conditions, grown, compared)
    assert "1 seed; finished with 2 and then with 4 before more came." in text


def test_outcome_is_json_for_the_package(small: Recipe, tmp_path: Path) -> None:
    invoke(small.name, "--data", write_svhn(tmp_path), "--scale", "0.01", "--out", "out")
    text = (tmp_path / "out" / "outcome.json").read_text(encoding="utf-8")
    kept = outcome.read(text)
    assert json.loads(text)["measured"].keys() == {"error"}
    assert kept.published_data is False
    (line,) = kept.lines(without=["wn-unit"])
    assert re.fullmatch(r"test error, %: plain [\d.]+, cwn-unit [\d.]+", line)

"""Every recipe against the published numbers and settings, and every result accounted for."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner
from zeromean.study.methods import BASELINE
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.schedules import Schedule

from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.recipes import catalog, listing, outcome, published
from zeromean.recipes.agreement import agreement
from zeromean.recipes.cost import Cost, Speed
from zeromean.recipes.measures import MEASURES
from zeromean.recipes.published import PAPERS, Published
from zeromean.recipes.recipe import NEW, PLACEHOLDER, Recipe
from zeromean.recipes.shorten import shortened
from zeromean.study import ImageTask, Study, Tuning
from zeromean.study.report.table import NOTHING

RECIPES = catalog.recipes()
GC = published.read("gradient_centralization")
CWN = published.read("centered_weight_normalization")
TUTORIAL = published.read("guides")["horses_or_humans"]

every = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def of(prefix: str) -> list[Recipe]:
    return [recipe for recipe in RECIPES if recipe.name.startswith(prefix)]


def optimizer(recipe: Recipe) -> OptimizerChoice:
    (name,) = recipe.study.optimizers
    return OptimizerChoice.parse(name)


def test_every_result_has_a_recipe_or_a_reason() -> None:
    found = catalog.results()
    assert len(found) == sum(len(published.places(paper)) for paper in PAPERS)
    for one in found:
        assert bool(one.recipes) != bool(one.reason), one
        assert bool(one.reason) == bool(one.instead), one
    # And every place that a recipe names is one.
    known = {(one.paper, one.place) for one in found}
    assert {(one.paper, place) for one in RECIPES for place in one.places} <= known


def test_names_tell_recipes_apart() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names)
    assert catalog.find(names[0]) is RECIPES[0]
    with pytest.raises(ZeromeanError, match=f"recipe 'gc-table9'; wanted .*{names[0]}"):
        catalog.find("gc-table9")


@every
def test_a_recipe_is_one_comparison_with_a_row_for_each_method(recipe: Recipe) -> None:
    study = recipe.study
    assert len(study.cells) == 1
    assert recipe.task.data == PLACEHOLDER
    rows = {method for block in recipe.blocks for method in block.rows}
    # The study needs its baseline also where the published table has another.
    assert rows | {BASELINE} == set(study.methods)
    assert set(recipe.measures) <= MEASURES.keys()
    assert recipe.on("digits", seeds=2) == dataclasses.replace(
        study, tasks=(dataclasses.replace(recipe.task, data="digits"),), seeds=2
    )


def numbers(entry: Any) -> list[float]:
    """Every number of a table without its settings, deviations left out."""
    if isinstance(entry, Mapping):
        return [
            number
            for key, value in entry.items()
            if not key.startswith("recipe")
            for number in numbers(value)
        ]
    if isinstance(entry, int | float):
        return [entry]
    if isinstance(entry, list):
        pairs = [one for one in entry if isinstance(one, list)]
        return [one[0] for one in pairs] or [one for one in entry if isinstance(one, float)]
    return []


@pytest.mark.parametrize(
    ("paper", "table"),
    [
        *itertools.product(["gradient_centralization"], ["table1", "table2", "table3", "table4"]),
        *itertools.product(
            ["centered_weight_normalization"],
            ["table1", "table2", "table3", "figure5a", "figure5b"],
        ),
    ],
)
def test_recipes_hold_every_number_of_a_table_once(paper: str, table: str) -> None:
    cells = [
        (block.place, block.column, row)
        for recipe in RECIPES
        if recipe.paper == paper
        for block in recipe.blocks
        if block.table == table
        for row in dict.fromkeys(block.rows.values())
        if row != NEW
    ]
    assert len(set(cells)) == len(cells)
    held = [published.number(paper, *cell).value for cell in cells]
    assert sorted(held) == sorted(numbers(published.entry(paper, table)))


@every
def test_rows_go_by_the_names_of_their_methods(recipe: Recipe) -> None:
    """No number stands beside another method than it was published of."""
    words = {
        "plain": (),
        "without": (),
        "with_gc": ("gc", "gc-conv"),
        "NNN": ("nnn", "nnn-eps=0.01", "nnn-eps=0.1", "nnn-eps=1"),
        "WN": ("wn-unit",),
        "CWN": ("cwn-unit",),
    }
    for block in recipe.blocks:
        shared = set(block.baseline.split("+")) - {BASELINE}
        for method, row in block.rows.items():
            if row != NEW:
                own = set(method.split("+")) - {BASELINE} - shared
                assert own <= set(words[row]), (method, row)
                assert bool(own) == bool(words[row]), (method, row)


@pytest.mark.parametrize("recipe", of("gc-table1") + of("gc-table2"), ids=lambda one: one.name)
def test_gc_on_cifar_is_trained_as_published(recipe: Recipe) -> None:
    settings, task, choice = GC["table1"]["recipe"], recipe.task, optimizer(recipe)
    assert (task.epochs, task.batch_size) == (settings["epochs"], settings["batch_size"])
    assert recipe.study.seeds == recipe.repeats == settings["repeats"]
    assert settings["lr_schedule"] == f"x0.1 {task.schedule.replace('=', ' ')} epochs"
    assert settings["gc"] == "conv layers only"
    assert recipe.study.methods == ("plain", "gc-conv")
    code = settings["from_the_published_code_not_the_paper"]
    assert code["augmentation"] == "4-pixel pad, random 32x32 crop, horizontal flip"
    assert task.augment == "crop-flip"
    assert code["drop_last"]  # as the engine does
    if recipe.name.startswith("gc-table1"):
        told = (choice.lr, choice.decay, choice.settings["momentum"])
        assert told == (settings["lr"], settings["weight_decay"], settings["momentum"])
        column = recipe.blocks[0].column
        models = {
            "R18": "resnet18",
            "R101": "resnet101",
            "X29": "resnext29",
            "V11": "vgg11",
            "D121": "densenet121",
        }
        assert task.model == models[str(column)]
    else:
        own, column = GC["table2"]["recipe"], str(recipe.blocks[0].column)
        decays = own["weight_decay"]
        assert choice.lr == own["lr"][column]
        assert choice.decay == decays.get(column, decays["others"])
        assert task.model == "resnet50"
        kinds = {"SGDM": "sgd", "SGDW": "sgdw", "Adam": "adam", "AdamW": "adamw"}
        assert choice.name.partition("+")[0] == kinds.get(column, column.lower())
        assert choice.settings.get("momentum", 0.9) == settings["momentum"]


@pytest.mark.parametrize("recipe", of("cwn-table3"), ids=lambda one: one.name)
def test_cwn_table3_is_trained_as_published(recipe: Recipe) -> None:
    told, task, choice = CWN["table3"]["recipe"], recipe.task, optimizer(recipe)
    assert "56 layers" in told
    assert task.model == "resnet56"
    batch, momentum, decay, rate = re.findall(r"(?:batch|SGDM|decay|lr) ([\d.e-]+)", told)
    assert task.batch_size == int(batch)
    assert choice.settings["momentum"] == float(momentum)
    assert (choice.decay, choice.lr) == (float(decay), float(rate))
    assert "divided by 10 twice, 4-pixel pad and crop, flip" in told
    assert re.fullmatch(r"drops=\d+,\d+", task.schedule)
    assert task.augment == "crop-flip"
    assert f"{recipe.repeats} runs" in CWN["table3"]["what"]
    assert recipe.study.seeds == recipe.repeats


def test_cwn_figure5a_is_trained_as_published() -> None:
    (recipe,) = of("cwn-figure5a")
    told, task, choice = CWN["figure5a"]["recipe"], recipe.task, optimizer(recipe)
    tuning = recipe.study.tuning
    assert tuning is not None
    assert (task.model, task.batch_size) == ("vgga", told["batch_size"])
    assert (choice.settings["momentum"], choice.decay) == (told["momentum"], told["weight_decay"])
    assert list(tuning.rates) == told["lr_grid"]
    assert int(task.schedule.removeprefix("halve=")) in told["halve_lr_every_K_iterations"]
    assert tuning.validation * recipe.data.train == told["validation"]


def test_cwn_on_yaleb_is_trained_as_published() -> None:
    (recipe,) = of("cwn-yaleb")
    told, task, choice = CWN["table1"]["recipe_yaleb"], recipe.task, optimizer(recipe)
    tuning = recipe.study.tuning
    assert tuning is not None
    assert told["images"].startswith("32x32 gray as 1024-vectors, mean subtracted and divided")
    assert (task.model, task.prepare) == ("mlp-yaleb", "pixel")
    assert told["mlp_hidden"] == [128, 64, 48, 48]  # as the network's test shows
    count = re.match(
        rf"{recipe.data.test} test images \((\d+) per class at random\), the other"
        rf" {recipe.data.train} train",
        told["split"],
    )
    assert count is not None
    assert (task.test_per_class, task.split) == (int(count[1]), "seed")
    assert recipe.data.test == task.test_per_class * recipe.data.classes
    assert (told["optimizer"], choice.settings["momentum"], choice.decay) == ("SGD", 0, 0)
    assert task.batch_size == told["batch_size"]
    assert list(tuning.rates) == told["lr_grid"]
    assert f"mean of {recipe.repeats} runs" in CWN["table1"]["what"]
    assert recipe.study.seeds >= 10


@pytest.mark.parametrize("recipe", of("cwn-svhn") + of("cwn-figure4"), ids=lambda one: one.name)
def test_cwn_on_svhn_is_trained_as_published(recipe: Recipe) -> None:
    told, task, choice = CWN["table1"]["recipe_svhn"], recipe.task, optimizer(recipe)
    tuning = recipe.study.tuning
    assert tuning is not None
    assert told["images"].startswith("32x32 gray as 1024-vectors")
    assert task.gray
    assert task.model == "mlp-svhn"
    assert told["mlp_hidden"] == 5 * [128]
    assert task.batch_size == told["batch_size"]
    assert told["validation"] == f"{tuning.validation:.0%} of train"
    assert recipe.study.seeds == recipe.repeats
    assert f"mean of {recipe.repeats} runs" in CWN["table1"]["what"]
    if recipe.name == "cwn-figure4b":
        rates = re.search(r"Adam, lr in \{(.*)\}", CWN["figure4"]["b"])
        assert rates is not None
        assert list(tuning.rates) == [float(one) for one in rates[1].split(",")]
        assert (choice.name, choice.decay) == ("adam+decay=0", 0)
    else:
        assert list(tuning.rates) == told["lr_grid"]
        assert told["optimizer"] == "SGD"
        assert (choice.settings["momentum"], choice.decay) == (0, 0)
    ridges = [one for one in recipe.study.methods if one.startswith("nnn-eps=")]
    if ridges:
        found = {float(one.partition("=")[2].partition("+")[0]) for one in ridges}
        assert sorted(found) == told["nnn_eps"]


def test_cwn_figure4a_has_the_published_methods() -> None:
    (recipe,) = of("cwn-figure4a")
    names = re.findall(r"[A-Z+]+(?=,|$)", CWN["figure4"]["a"])
    words = {
        "norm=batch": "BN",
        "wn-unit+norm=batch": "WN+BN",
        "nnn+norm=batch": "NNN+BN",
        "cwn-unit": "CWN",
        "cwn-unit+norm=batch": "CWN+BN",
    }
    assert sorted(words[method] for method in recipe.blocks[0].rows) == sorted(names)
    assert "before the nonlinearity" in CWN["figure4"]["a"]  # as the network's test shows


def test_cwn_figure5b_is_trained_as_published() -> None:
    (recipe,) = of("cwn-figure5b")
    told, task, choice = CWN["figure5b"]["recipe"], recipe.task, optimizer(recipe)
    assert (task.model, task.prepare, task.augment) == ("googlenet", "zca", "crop-flip")
    assert (task.batch_size, task.epochs) == (told["batch_size"], told["epochs"])
    assert (choice.settings["momentum"], choice.decay) == (told["momentum"], told["weight_decay"])
    end = choice.lr * float(task.schedule.removeprefix("exponential="))
    assert told["lr"] == f"{choice.lr:g} to {end:g}, decayed every two epochs exponentially"


def test_cwn_table4_is_trained_as_published() -> None:
    (recipe,) = of("cwn-table4")
    told, task, choice = CWN["table4"]["recipe"], recipe.task, optimizer(recipe)
    assert (task.batch_size, task.epochs) == (told["batch_size"], told["epochs"])
    assert (choice.settings["momentum"], choice.decay) == (told["momentum"], told["weight_decay"])
    end = choice.lr * float(task.schedule.removeprefix("exponential="))
    assert told["lr"] == f"{choice.lr:g} to {end:g} exponentially"
    numbers = [
        published.number(recipe.paper, "table4", "top-1", row).value for row in ("WN", "CWN")
    ]
    assert numbers == [CWN["table4"]["WN"][0], CWN["table4"]["CWN"][0]]


@pytest.mark.parametrize("recipe", of("gc-table3"), ids=lambda one: one.name)
def test_gc_on_imagenet_is_trained_as_published(recipe: Recipe) -> None:
    told, task, choice = GC["table3"]["recipe"], recipe.task, optimizer(recipe)
    assert told["gc"] == "conv layers only"
    assert {part for one in recipe.study.methods for part in one.split("+")} == {
        "plain",
        "gc-conv",
        "norm=group",
    }
    assert told["optimizer"] == f"SGDM {choice.settings['momentum']:g}".replace("0.", ".")
    batches = dict(re.findall(r"R(\d+) (\d+x\d+)", told["batch"]))
    devices, each = map(int, batches[task.model.removeprefix("timm:resnet")].split("x"))
    assert task.batch_size == devices * each
    for block in recipe.blocks:
        network = "GN" if "norm=group" in block.baseline else "BN"
        assert block.column == f"R{task.model.removeprefix('timm:resnet')}{network}"


@pytest.mark.parametrize("recipe", of("gc-table4"), ids=lambda one: one.name)
def test_gc_on_fine_grained_sets_is_trained_as_published(recipe: Recipe) -> None:
    told, task, choice = GC["table4"]["recipe"], recipe.task, optimizer(recipe)
    assert task.model == "timm:resnet50.tv_in1k"
    assert (task.epochs, task.batch_size) == (told["epochs"], told["batch_size"])
    assert (task.resize, task.crop) == (told["resize"], told["center_crop"])
    assert recipe.data.shape == (3, told["center_crop"], told["center_crop"])
    assert choice.lr == told["lr_conv"]
    assert choice.lr * choice.head == pytest.approx(told["lr_fc"])
    assert choice.settings["momentum"] == told["momentum"]
    assert task.schedule == f"drops={','.join(map(str, told['lr_drops_at']))}"
    assert recipe.study.seeds == recipe.repeats == told["repeats"]
    assert recipe.blocks[0].column == recipe.data.name


def test_gc_figure5_is_trained_as_published() -> None:
    (recipe,) = of("gc-figure5")
    told, task = GC["figure5"]["what"], recipe.task
    classes, train, test, side = re.findall(r"(\d+)(?= classes| train| test|x224)", told)
    assert recipe.data.classes == int(classes)
    assert (recipe.data.train, recipe.data.test) == (
        int(classes) * int(train),
        int(classes) * int(test),
    )
    assert task.crop == int(side) == recipe.data.shape[1]
    # As its code does, which draws random crops.
    assert (task.augment, task.resize) == ("resized-crop-flip", 256)
    assert f"batch {task.batch_size} on 4 GPUs" in told
    assert optimizer(recipe).settings["momentum"] == 0.9
    assert "SGDM .9" in told
    assert f"{recipe.repeats} repeats" in told
    assert recipe.study.methods == ("plain", "gc", "ws")


def test_the_tutorial_is_trained_as_it_says_but_for_its_mistake() -> None:
    (recipe,) = of("tutorial")
    task, choice = recipe.task, optimizer(recipe)
    images = TUTORIAL["images"]
    assert recipe.data.train == images["horses"] + images["humans"]
    assert recipe.data.test == images["validation"]
    assert recipe.data.shape == tuple(reversed(TUTORIAL["size"]))
    assert (task.epochs, task.batch_size) == (TUTORIAL["epochs"], TUTORIAL["batch_train"])
    assert recipe.data.train // task.batch_size == TUTORIAL["steps_per_epoch"]
    assert TUTORIAL["optimizer"] == f"RMSprop lr {choice.lr:.0e}".replace("e-0", "e-")
    assert choice.name.startswith("rmsprop")
    assert (task.augment, task.schedule) == ("affine", "constant")
    names = {"execution time": "time", "accuracy": "accuracy", "loss": "loss"}
    assert recipe.measures == tuple(names[one] for one in TUTORIAL["table"][1:])
    assert "same fresh weights" in recipe.notes[0]
    assert "Start both runs from the same fresh weights" in TUTORIAL["warning"]


@every
@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_shorter_training_shortens_everything_alike(recipe: Recipe, scale: float) -> None:
    short = shortened(recipe.study, scale)
    (task,), full = short.tasks, recipe.task
    assert task.epochs == max(1, round(scale * full.epochs))
    kind, _, counts = full.schedule.partition("=")
    if kind in ("every", "drops", "halve"):
        found = [int(one) for one in task.schedule.removeprefix(f"{kind}=").split(",")]
        assert found == [max(1, round(scale * int(one))) for one in counts.split(",")]
    else:
        assert task.schedule == full.schedule
    # Nothing else changes.
    back = replace(task, epochs=full.epochs, schedule=full.schedule)
    assert dataclasses.replace(short, tasks=(back,)) == recipe.study


def test_tuning_is_shortened_too() -> None:
    study = Study(tasks=(ImageTask(epochs=100),), tuning=Tuning(rates=(0.1,), epochs=30))
    short = shortened(study, 0.1)
    assert short.tuning == Tuning(rates=(0.1,), epochs=3)
    assert shortened(study, 1.0) is study


def test_a_scale_that_leaves_no_room_is_refused() -> None:
    study = Study(tasks=(ImageTask(epochs=100, schedule="drops=50,80"),))
    for scale in (0.01, 0.0, 1.5, float("nan")):
        with pytest.raises(ZeromeanError, match="scale = "):
            shortened(study, scale)


@given(
    epochs=st.integers(2, 200),
    first=st.integers(1, 199),
    gap=st.integers(1, 100),
    kind=st.sampled_from(["every", "drops"]),
    scale=st.floats(0.001, 0.999),
)
def test_a_shorter_schedule_falls_as_often_or_names_a_scale_at_which_it_does(
    epochs: int, first: int, gap: int, kind: str, scale: float
) -> None:
    schedule = f"every={first}" if kind == "every" else f"drops={first},{first + gap}"
    assume(epochs > (first if kind == "every" else first + gap))
    study = Study(tasks=(ImageTask(epochs=epochs, schedule=schedule),))

    def falls(some: Study) -> int:
        (task,) = some.tasks
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        way = Schedule.parse(task.schedule).make(optimizer, 1, task.epochs)
        rates = []
        for _ in range(task.epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            way.step()
        return sum(one > other for one, other in itertools.pairwise(rates))

    try:
        short = shortened(study, scale)
    except ZeromeanError as error:
        enough = float(error.fix.rpartition(" ")[2])
        assert enough > scale
        short = shortened(study, enough)
    assert falls(short) == falls(study)


def test_a_published_number_agrees_within_the_noise_of_both() -> None:
    rng = np.random.default_rng(0)
    trials, hits = 2000, 0
    for _ in range(trials):
        theirs = rng.normal(5.0, 1.0, 10)
        number = Published(theirs.mean(), theirs.std(ddof=1))
        hits += agreement(rng.normal(5.0, 2.0, 6), number, 10).verdict == "agrees"
    assert abs(hits / trials - 0.95) < 0.02
    # The interval is the textbook's.
    ours = rng.normal(5.0, 2.0, 6)
    found = agreement(ours, number, 10)
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    np.testing.assert_allclose(found.interval, test.confidence_interval())


@pytest.mark.parametrize(
    ("value", "verdict"), [(5.0, "agrees"), (50.0, "lower"), (-50.0, "higher")]
)
@pytest.mark.parametrize("deviation", [None, 0.5])
def test_a_verdict_says_on_which_side_of_it_the_measured_mean_is(
    value: float, verdict: str, deviation: float | None
) -> None:
    assert agreement([4.0, 5.0, 6.0], Published(value, deviation), repeats=5).verdict == verdict


def test_a_single_run_neither_agrees_nor_not() -> None:
    found = agreement([4.0], Published(5.0), repeats=5)
    assert (found.difference, found.interval, found.verdict) == (-1.0, None, "")


def test_tables_lists_everything_with_its_numbers() -> None:
    result = CliRunner().invoke(app, ["tables"])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for one in catalog.results():
        assert " ".join(one.heading.split()) in text
        for recipe in one.recipes:
            assert f"{recipe.name}: {recipe.title}" in text
            assert recipe.data.form in text
            runs, epochs, _ = listing.planned(recipe)
            assert f"{runs:,} run" in text
            assert f"{epochs:,} epochs" in text
        assert one.recipes or f"no recipe: {one.reason}; instead: {one.instead}" in text
    assert "without 76.87 ± 0.26, with_gc 78.82 ± 0.31" in text
    assert "R101 38.5 / 60.3 / 41.6" in text


def test_tables_tells_of_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe, *_) = of("cwn-table3")
    told = {"plain": (9.25, 0.5, 3), "wn-unit": (8.0, None, 1), "cwn-unit": (None, None, 0)}
    measured = {"error": told}
    kept = outcome.Outcome(recipe.name, 0.1, False, "5 images", 3, "cpu", "bfloat16", measured)
    assert outcome.read(kept.text()).text() == kept.text()
    monkeypatch.setattr(listing, "kept", lambda: (kept,))
    result = CliRunner().invoke(app, ["tables", recipe.name])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "plain 7.34 ± 0.52, WN 7.58 ± 0.40, CWN 6.85 ± 0.26" in text
    assert (
        "here: test error, %: plain 9.25 ± 0.50, wn-unit 8.00 (2 of 3 diverged), cwn-unit"
        f" {NOTHING} (3 of 3 diverged) (3 seed(s); cpu; training shortened to 0.1 of its length;"
        " computed in bfloat16; on other data than published: 5 images)"
    ) in text
    assert "Table 5" not in text
    refused = CliRunner().invoke(app, ["tables", "kangaroo"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "words 'kangaroo', which no result has" in refused.stderr


def test_what_is_kept_was_run_by_a_recipe() -> None:
    for one in outcome.kept():
        recipe = catalog.find(one.recipe)
        assert set(one.measured) == set(recipe.measures)


def test_a_cost_is_told_in_a_line() -> None:
    speeds = {"plain": Speed(0.5, 0.01), "gc": Speed(0.75, 0.01)}
    told = Cost(2, 1200, 30, speeds, 9000.0).text(jobs=2)
    assert told == (
        "2 runs, 1,200 epochs of 30 steps; a step took 0.5 s (plain) to 0.75 s (gc) on this"
        " machine: about 2.5 hours in 2 processes"
    )
    assert Cost(0, 0, 30, {}, 0.0).text(jobs=1) == "Nothing is left to train."
    short = Cost(1, 1, 1, speeds, 9.0).text(jobs=1)
    assert short.startswith("1 run, 1 epoch of 1 step; a step took 0.5 s")

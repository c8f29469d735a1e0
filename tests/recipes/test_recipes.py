"""Recipes compared with the published numbers and settings, result by result."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from zeromean.cli.main import app
from zeromean.cli.tables import planned
from zeromean.errors import ZeromeanError
from zeromean.recipes import outcome, published, registry
from zeromean.recipes.agreement_test import agreement
from zeromean.recipes.cost import Cost, Speed
from zeromean.recipes.metrics import METRICS
from zeromean.recipes.published import PAPERS, Published
from zeromean.recipes.recipe import NEW, PLACEHOLDER, Recipe
from zeromean.recipes.scale import scaled
from zeromean.study import ImageTask, Optimizer, Schedule, Study, Tuning
from zeromean.study.report.table import MISSING
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.records import Candidate, Epoch, Key, Run
from zeromean.study.tasks.build_optimizer import build_scheduler

RECIPES = registry.recipes()
ROOT = Path(__file__).parents[2]
replace = msgspec.structs.replace
GC = published.read("gradient_centralization")
CWN = published.read("centered_weight_normalization")
TUTORIAL = published.read("guides")["horses_or_humans"]

every = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
# The recipes of tasks that zeromean trains itself; test_program_recipes.py has the others.
BUILT_IN = [recipe for recipe in RECIPES if recipe.program is None]
built_in = pytest.mark.parametrize("recipe", BUILT_IN, ids=lambda recipe: recipe.name)


def of(prefix: str) -> list[Recipe]:
    return [recipe for recipe in RECIPES if recipe.name.startswith(prefix)]


def optimizer(recipe: Recipe) -> Optimizer:
    (found,) = recipe.study.optimizers
    return found


def check(recipe: Recipe, paper: Mapping[str, Any], *names: str) -> None:
    """Compare settings of a recipe with the published ones."""
    task, choice = recipe.task, optimizer(recipe)
    own = {
        "batch_size": task.batch_size,
        "epochs": task.epochs,
        "momentum": choice.settings.get("momentum"),
        "weight_decay": choice.decay,
    }
    assert {name: own[name] for name in names} == {name: paper[name] for name in names}


def test_every_table_has_a_recipe_and_every_other_result_a_recipe_or_a_script() -> None:
    found = registry.results()
    assert len(found) == sum(len(published.places(paper)) for paper in PAPERS)
    for one in found:
        assert one.recipes or not one.place.startswith(("table", "reid")), one
        assert bool(one.recipes) != bool(one.command), one
        assert bool(one.command) == bool(one.status) == bool(one.page), one
        for file in re.findall(r"\S+\.(?:py|md)", f"{one.command} {one.page}"):
            assert (ROOT / file).is_file(), file
    # And every place that a recipe names is one.
    known = {(one.paper, one.place) for one in found}
    assert {(one.paper, place) for one in RECIPES for place in one.places} <= known


def test_recipes_are_found_by_their_names() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names)
    assert registry.find(names[0]) is RECIPES[0]
    with pytest.raises(ZeromeanError, match=f"'gc-table9' is not one of .*{names[0]}"):
        registry.find("gc-table9")


@every
def test_a_recipe_is_one_comparison_with_a_row_for_each_method(recipe: Recipe) -> None:
    study = recipe.study
    assert len(study.cells) == 1
    rows = {method for column in recipe.columns for method in column.rows}
    # The study needs its baseline even if the published table has another.
    assert rows | {BASELINE} == set(study.method_labels)
    assert set(recipe.metrics) <= METRICS.keys()


@built_in
def test_user_replaces_the_data_and_the_seeds(recipe: Recipe) -> None:
    assert recipe.task.data == PLACEHOLDER
    assert recipe.on("digits", seeds=2) == replace(
        recipe.study, tasks=(replace(recipe.task, data="digits"),), seeds=2
    )


@built_in
def test_convolutional_networks_keep_their_last_layer_plain(recipe: Recipe) -> None:
    for method in recipe.study.methods:
        if method.reparametrization not in (None, "nnn"):
            expected = "all" if recipe.task.model.startswith("mlp") else "conv"
            assert method.layers == expected, method.label


def numbers(entry: Any) -> list[float]:
    """Return every number of a table, without settings and deviations."""
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
        *itertools.product(
            ["gradient_centralization"],
            ["table1", "table2", "table3", "table4", "table5", "table6", "reid"],
        ),
        *itertools.product(
            ["centered_weight_normalization"],
            ["table1", "table2", "table3", "table4", "figure5a", "figure5b"],
        ),
    ],
)
def test_recipes_hold_every_number_of_a_table_once(paper: str, table: str) -> None:
    metrics = published.entry(paper, table).get("metrics", [None])
    cells = [
        (column.place, column.heading, row, metric)
        for recipe in RECIPES
        if recipe.paper == paper
        for column in recipe.columns
        if column.table == table
        for row in dict.fromkeys(column.rows.values())
        if row != NEW
        for metric in metrics
    ]
    assert len(set(cells)) == len(cells)
    held = [published.number(paper, *cell).value for cell in cells]
    assert sorted(held) == sorted(numbers(published.entry(paper, table)))


@every
def test_numbers_belong_to_the_method_they_were_published_for(recipe: Recipe) -> None:
    words = {
        "plain": (),
        "without": (),
        "with_gc": ("gc", "gc-conv"),
        "NNN": ("nnn", "nnn-eps=0.01", "nnn-eps=0.1", "nnn-eps=1"),
        "WN": ("wn-unit", "wn-conv-unit"),
        "CWN": ("cwn-unit", "cwn-conv-unit"),
        "adam": (),
        "sgd_gcc": ("gc-conv", "sgd"),
    }
    for column in recipe.columns:
        shared = set(re.split("[+@]", column.baseline)) - {BASELINE}
        for method, row in column.rows.items():
            if row != NEW:
                own = set(re.split("[+@]", method)) - {BASELINE} - shared
                assert own <= set(words[row]), (method, row)
                assert bool(own) == bool(words[row]), (method, row)


@pytest.mark.parametrize("recipe", of("gc-table1") + of("gc-table2"), ids=lambda one: one.name)
def test_gc_on_cifar_is_trained_as_published(recipe: Recipe) -> None:
    settings, task, choice = GC["table1"]["recipe"], recipe.task, optimizer(recipe)
    check(recipe, settings, "epochs", "batch_size")
    assert recipe.study.seeds == recipe.repeats == settings["repeats"]
    assert settings["lr_schedule"] == f"x0.1 every {task.schedule.every} epochs"
    assert settings["gc"] == "conv layers only"
    adaptive = choice.name in ("adam", "adagrad", "adamw")
    methods = ("plain", "gc-conv", *(["gc-conv-update"] if adaptive else []))
    assert recipe.study.method_labels == methods
    code = settings["from_the_published_code_not_the_paper"]
    assert code["augmentation"] == "4-pixel pad, random 32x32 crop, horizontal flip"
    assert task.augment == "crop-flip"
    assert code["drop_last"]  # as the engine does
    if recipe.name.startswith("gc-table1"):
        given = (choice.lr, choice.decay, choice.settings["momentum"])
        assert given == (settings["lr"], settings["weight_decay"], settings["momentum"])
        column = recipe.columns[0].heading
        models = {
            "R18": "resnet18",
            "R101": "resnet101",
            "X29": "resnext29",
            "V11": "vgg11",
            "D121": "densenet121",
        }
        assert task.model == models[str(column)]
    else:
        own, column = GC["table2"]["recipe"], str(recipe.columns[0].heading)
        decays = own["weight_decay"]
        assert choice.lr == own["lr"][column]
        assert choice.decay == decays.get(column, decays["others"])
        assert task.model == "resnet50"
        kinds = {"SGDM": "sgd", "SGDW": "sgdw", "Adam": "adam", "AdamW": "adamw"}
        assert choice.name == kinds.get(column, column.lower())
        assert choice.settings.get("momentum", 0.9) == settings["momentum"]


@pytest.mark.parametrize("recipe", of("cwn-table3"), ids=lambda one: one.name)
def test_cwn_table3_is_trained_as_published(recipe: Recipe) -> None:
    paper, task, choice = CWN["table3"]["recipe"], recipe.task, optimizer(recipe)
    assert "56 layers" in paper
    assert task.model == "resnet56"
    batch, momentum, decay, rate = re.findall(r"(?:batch|SGDM|decay|lr) ([\d.e-]+)", paper)
    assert task.batch_size == int(batch)
    assert choice.settings["momentum"] == float(momentum)
    assert (choice.decay, choice.lr) == (float(decay), float(rate))
    assert "divided by 10 twice, 4-pixel pad and crop, flip" in paper
    assert len(task.schedule.milestones) == 2
    assert task.augment == "crop-flip"
    assert f"{recipe.repeats} runs" in CWN["table3"]["what"]
    assert recipe.study.seeds == recipe.repeats


def test_cwn_figure5a_is_trained_as_published() -> None:
    (recipe,) = of("cwn-figure5a")
    paper, task = CWN["figure5a"]["recipe"], recipe.task
    tuning = recipe.study.tuning
    assert tuning is not None
    assert task.model == "vgga"
    check(recipe, paper, "batch_size", "momentum", "weight_decay")
    assert list(tuning.rates) == paper["lr_grid"]
    assert task.schedule.steps in paper["halve_lr_every_K_iterations"]
    assert tuning.validation * recipe.data.train == paper["validation"]


def test_cwn_on_yaleb_is_trained_as_published() -> None:
    (recipe,) = of("cwn-yaleb")
    paper, task, choice = CWN["table1"]["recipe_yaleb"], recipe.task, optimizer(recipe)
    tuning = recipe.study.tuning
    assert tuning is not None
    assert paper["images"].startswith("32x32 gray as 1024-vectors, mean subtracted and divided")
    assert (task.model, task.preprocess) == ("mlp-yaleb", "pixel")
    assert paper["mlp_hidden"] == [128, 64, 48, 48]  # as the network's test shows
    count = re.match(
        rf"{recipe.data.test} test images \((\d+) per class at random\), the other"
        rf" {recipe.data.train} train",
        paper["split"],
    )
    assert count is not None
    assert (task.test_per_class, task.split) == (int(count[1]), "seed")
    assert recipe.data.test == task.test_per_class * recipe.data.classes
    assert (paper["optimizer"], choice.settings["momentum"], choice.decay) == ("SGD", 0, 0)
    assert task.batch_size == paper["batch_size"]
    assert list(tuning.rates) == paper["lr_grid"]
    assert f"mean of {recipe.repeats} runs" in CWN["table1"]["what"]
    assert recipe.study.seeds >= 10


@pytest.mark.parametrize("recipe", of("cwn-svhn") + of("cwn-figure4"), ids=lambda one: one.name)
def test_cwn_on_svhn_is_trained_as_published(recipe: Recipe) -> None:
    paper, task, choice = CWN["table1"]["recipe_svhn"], recipe.task, optimizer(recipe)
    tuning = recipe.study.tuning
    assert tuning is not None
    assert paper["images"].startswith("32x32 gray as 1024-vectors")
    assert task.gray
    assert task.model == "mlp-svhn"
    assert paper["mlp_hidden"] == 5 * [128]
    assert task.batch_size == paper["batch_size"]
    assert paper["validation"] == f"{tuning.validation:.0%} of train"
    assert recipe.study.seeds == recipe.repeats
    assert f"mean of {recipe.repeats} runs" in CWN["table1"]["what"]
    if recipe.name == "cwn-figure4b":
        rates = re.search(r"Adam, lr in \{(.*)\}", CWN["figure4"]["b"])
        assert rates is not None
        assert list(tuning.rates) == [float(one) for one in rates[1].split(",")]
        assert (choice.name, choice.decay) == ("adam", 0)
    else:
        assert list(tuning.rates) == paper["lr_grid"]
        assert paper["optimizer"] == "SGD"
        assert (choice.settings["momentum"], choice.decay) == (0, 0)
    ridges = {one.eps for one in recipe.study.methods if one.label.startswith("nnn-eps=")}
    assert not ridges or sorted(ridges) == paper["nnn_eps"]


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
    assert sorted(words[method] for method in recipe.columns[0].rows) == sorted(names)
    assert "before the nonlinearity" in CWN["figure4"]["a"]  # as the network's test shows


def test_cwn_figure5b_is_trained_as_published() -> None:
    (recipe,) = of("cwn-figure5b")
    paper, task, choice = CWN["figure5b"]["recipe"], recipe.task, optimizer(recipe)
    assert (task.model, task.preprocess, task.augment) == ("googlenet", "zca", "crop-flip")
    check(recipe, paper, "batch_size", "epochs", "momentum", "weight_decay")
    end = choice.lr * task.schedule.end
    assert paper["lr"] == f"{choice.lr:g} to {end:g}, decayed every two epochs exponentially"


def test_cwn_table4_is_trained_as_published() -> None:
    (recipe,) = of("cwn-table4")
    paper, task, choice = CWN["table4"]["recipe"], recipe.task, optimizer(recipe)
    check(recipe, paper, "batch_size", "epochs", "momentum", "weight_decay")
    end = choice.lr * task.schedule.end
    assert paper["lr"] == f"{choice.lr:g} to {end:g} exponentially"
    assert CWN["table4"]["what"] == "ImageNet GoogLeNet top-1 / top-5 error %"
    assert recipe.metrics == ("error", "error_top5")


def test_gc_figure5_is_trained_as_published() -> None:
    (recipe,) = of("gc-figure5")
    paper, task = GC["figure5"]["what"], recipe.task
    classes, train, test, side = re.findall(r"(\d+)(?= classes| train| test|x224)", paper)
    assert recipe.data.classes == int(classes)
    assert (recipe.data.train, recipe.data.test) == (
        int(classes) * int(train),
        int(classes) * int(test),
    )
    assert task.crop == int(side) == recipe.data.shape[1]
    # As its code does, which draws random crops.
    assert (task.augment, task.resize) == ("resized-crop-flip", 256)
    assert f"batch {task.batch_size} on 4 GPUs" in paper
    assert optimizer(recipe).settings["momentum"] == 0.9
    assert "SGDM .9" in paper
    assert f"{recipe.repeats} repeats" in paper
    assert "curves of BN, BN+GC, BN+WS, BN+WS+GC" in paper
    assert recipe.study.method_labels == ("plain", "gc", "ws-conv", "ws-conv+gc")


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
    assert choice.name == "rmsprop"
    assert (task.augment, task.schedule.kind) == ("affine", "constant")
    names = {"execution time": "time", "accuracy": "accuracy", "loss": "loss"}
    assert recipe.metrics == tuple(names[one] for one in TUTORIAL["table"][1:])
    assert "same fresh weights" in recipe.notes[0]
    assert "Start both runs from the same fresh weights" in TUTORIAL["warning"]


@built_in
@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_scale_shortens_everything_alike(recipe: Recipe, scale: float) -> None:
    short = scaled(recipe.study, scale)
    (task,), full = short.tasks, recipe.task

    def count(number: int | None) -> int | None:
        return None if number is None else max(1, round(scale * number))

    assert task.epochs == count(full.epochs)
    assert task.schedule.every == count(full.schedule.every)
    assert task.schedule.steps == count(full.schedule.steps)
    assert list(task.schedule.milestones) == [*map(count, full.schedule.milestones)]
    # Nothing else changes.
    back = replace(task, epochs=full.epochs, schedule=full.schedule)
    assert replace(short, tasks=(back,)) == recipe.study


def test_scale_shortens_tuning() -> None:
    study = Study(tasks=(ImageTask(epochs=100),), tuning=Tuning(rates=(0.1,), epochs=30))
    short = scaled(study, 0.1)
    assert short.tuning == Tuning(rates=(0.1,), epochs=3)
    assert scaled(study, 1.0) is study


def test_scale_without_room_for_the_schedule_is_refused() -> None:
    schedule = Schedule("multistep", milestones=(50, 80))
    study = Study(tasks=(ImageTask(epochs=100, schedule=schedule),))
    with pytest.raises(ZeromeanError, match="has no room in 1 of 100 epochs"):
        scaled(study, 0.01)
    for scale in (0.0, 1.5, float("nan")):
        with pytest.raises(ZeromeanError, match="has to be above 0 and at most 1"):
            scaled(study, scale)


@given(
    epochs=st.integers(2, 200),
    first=st.integers(1, 199),
    gap=st.integers(1, 100),
    kind=st.sampled_from(["step", "multistep"]),
    scale=st.floats(0.001, 0.999),
)
def test_scaled_schedule_falls_as_often_or_the_error_names_a_scale_at_which_it_does(
    epochs: int, first: int, gap: int, kind: str, scale: float
) -> None:
    schedule = (
        Schedule("step", every=first)
        if kind == "step"
        else Schedule("multistep", milestones=(first, first + gap))
    )
    assume(epochs >= schedule.min_epochs)
    study = Study(tasks=(ImageTask(epochs=epochs, schedule=schedule),))

    def falls(some: Study) -> int:
        (task,) = some.tasks
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = build_scheduler(task.schedule, optimizer, 1, task.epochs)
        rates = []
        for _ in range(task.epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return sum(one > other for one, other in itertools.pairwise(rates))

    try:
        short = scaled(study, scale)
    except ZeromeanError as error:
        enough = float(error.fix.rpartition(" ")[2])
        assert enough > scale
        short = scaled(study, enough)
    assert falls(short) == falls(study)


def test_published_number_agrees_within_the_noise_of_both() -> None:
    rng = np.random.default_rng(0)
    trials, hits = 2000, 0
    for _ in range(trials):
        theirs = rng.normal(5.0, 1.0, 10)
        number = Published(theirs.mean(), theirs.std(ddof=1))
        hits += agreement(rng.normal(5.0, 2.0, 6), number, 10).verdict == "agrees"
    assert abs(hits / trials - 0.95) < 0.02
    # The interval is that of Welch's test.
    ours = rng.normal(5.0, 2.0, 6)
    found = agreement(ours, number, 10)
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    np.testing.assert_allclose(found.interval, test.confidence_interval())


@pytest.mark.parametrize(
    ("value", "verdict"), [(5.0, "agrees"), (50.0, "lower"), (-50.0, "higher")]
)
@pytest.mark.parametrize("deviation", [None, 0.5])
def test_verdict_says_on_which_side_of_the_published_number_the_mean_is(
    value: float, verdict: str, deviation: float | None
) -> None:
    assert agreement([4.0, 5.0, 6.0], Published(value, deviation), repeats=5).verdict == verdict


def test_single_run_has_no_verdict() -> None:
    found = agreement([4.0], Published(5.0), repeats=5)
    assert (found.difference, found.interval, found.verdict) == (-1.0, None, "")


def test_run_without_a_number_has_no_verdict() -> None:
    assert agreement([4.0, math.nan], Published(5.0), repeats=5).verdict == ""


def test_tables_lists_a_line_per_recipe_and_describes_what_words_name() -> None:
    short = CliRunner().invoke(app, ["tables"])
    assert short.exit_code == 0
    listed = " ".join(short.stdout.split())
    assert max(map(len, short.stdout.splitlines())) <= 80
    result = CliRunner().invoke(app, ["tables", " "])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for one in registry.results():
        assert " ".join(one.heading.split()) in text
        for recipe in one.recipes:
            assert f"{recipe.name} {outcome.status(recipe)}" in listed
            assert f"{recipe.name}: {recipe.title}" in text
            assert recipe.data.form in text
            runs, length, _ = planned(recipe)
            assert f"{runs:,} run" in text
            assert f"{length:,} {recipe.length[1]}s" in text
        assert one.recipes or f"{one.command.rpartition('/')[2]} {one.status}" in listed
        assert one.recipes or f"script: {one.command}" in text
    assert "without 76.87 ± 0.26, with_gc 78.82 ± 0.31" in text
    assert "without 38.50 / 60.30 / 41.60, with_gc 38.90 / 60.80 / 42.20" in text
    assert "plain 30.78 / 11.14, WN 28.64 / 9.70, CWN 26.10 / 8.35" in text


@pytest.mark.parametrize(
    ("name", "kept", "status"),
    [
        ("cwn-svhn", [], "only end to end"),
        ("cwn-svhn", [(0.1, False), (1.0, False)], "run on a stand-in"),
        ("cwn-svhn", [(0.1, False), (0.1, True)], "run on the published data, shortened"),
        ("cwn-svhn", [(1.0, False), (0.1, True), (1.0, True)], "run on the published data"),
        ("reinforce-cartpole", [(1.0, True)], "run"),
    ],
)
def test_status_says_on_what_a_recipe_has_run(
    name: str,
    kept: list[tuple[float, bool]],
    status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [outcome.Outcome(name, *one, "", 1, "cpu", "float32", {}) for one in kept]
    monkeypatch.setattr(outcome, "kept", lambda: tuple(found))
    assert outcome.status(registry.find(name)) == status


def test_tables_describes_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe, *_) = of("cwn-table3")
    cells = {"plain": (9.25, 0.5, 3), "wn-conv-unit": (8.0, None, 1), "old": (None, None, 0)}
    kept = outcome.Outcome(
        recipe.name, 0.1, False, "5 images", 3, "cpu", "bfloat16", {"error": cells}, note="older"
    )
    assert outcome.read(kept.text()).text() == kept.text()
    monkeypatch.setattr(outcome, "kept", lambda: (kept,))
    result = CliRunner().invoke(app, ["tables", recipe.name])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "plain 7.34 ± 0.52, WN 7.58 ± 0.40, CWN 6.85 ± 0.26" in text
    assert (
        "here: test error, %: plain 9.25 ± 0.50, wn-conv-unit 8.00 (2 of 3 did not finish),"
        f" old {MISSING} (3 of 3 did not finish) (3 seeds; cpu; training shortened to 0.1;"
        " computed in bfloat16; other data than published: 5 images; older)"
    ) in text
    assert "status: run on a stand-in" in text
    assert "Table 5" not in text
    refused = CliRunner().invoke(app, ["tables", "kangaroo"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "no published result contains 'kangaroo'" in refused.stderr


def test_kept_outcomes_belong_to_recipes() -> None:
    assert outcome.kept()
    for one in outcome.kept():
        recipe = registry.find(one.recipe)
        assert one.measured
        assert set(one.measured) <= set(recipe.metrics)
        others = {name for cells in one.measured.values() for name in cells}
        # An outcome of other methods than the recipe has now says so.
        assert one.note or others <= set(recipe.study.method_labels)


def test_top5_error_of_few_classes_is_zero() -> None:
    run = Run(Key("", "", "plain", 0), Candidate(0.1), (Epoch(1, {"score": 0.5}),), test_score=0.5)
    assert METRICS["error_top5"].of(run) == 0


def test_cost_is_one_line() -> None:
    speeds = {"plain": Speed(0.5, 0.01), "gc": Speed(0.75, 0.01)}
    text = Cost(2, 1200, 30, speeds, 9000.0).text(jobs=2)
    assert text == (
        "2 runs, 1,200 epochs of 30 steps; a step took 0.5 s (plain) to 0.75 s (gc) on this"
        " machine: about 2.5 hours in 2 processes"
    )
    assert Cost(0, 0, 30, {}, 0.0).text(jobs=1) == "Nothing is left to train."
    short = Cost(1, 1, 1, speeds, 9.0).text(jobs=1)
    assert short.startswith("1 run, 1 epoch of 1 step; a step took 0.5 s")

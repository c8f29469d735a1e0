"""Recipes of training programs: published settings, and one line for whatever is missing."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zeromean.cli.main import app
from zeromean.errors import MissingExtraError, ZeromeanError
from zeromean.recipes import program_data, published, registry
from zeromean.recipes.metrics import METRICS
from zeromean.recipes.recipe import DEVICE, PLACEHOLDER, WEIGHTS, Recipe
from zeromean.recipes.run_conditions import RunConditions
from zeromean.recipes.scale import scaled
from zeromean.study.spec import toml
from zeromean.study.spec.program import parse_metric
from zeromean.study.spec.records import FINAL, Candidate, Epoch, Key, Run

ROOT = Path(__file__).parents[2]
RECIPES = [recipe for recipe in registry.recipes() if recipe.program is not None]
GC = published.read("gradient_centralization")
every = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def of(prefix: str) -> list[Recipe]:
    return [recipe for recipe in RECIPES if recipe.name.startswith(prefix)]


def command(recipe: Recipe) -> tuple[str, ...]:
    (task,) = recipe.study.programs
    return task.command


def options(words: tuple[str, ...]) -> dict[str, list[float | str]]:
    """Return the values of each option of a command, numbers as numbers."""
    found: dict[str, list[float | str]] = {}
    name = ""
    for word in words:
        if word.startswith("-"):
            name = word
            found[name] = []
        elif name:
            number = re.fullmatch(r"[\d.]+", word)
            found[name].append(float(word) if number else word)
    return found


@every
def test_command_has_a_place_for_everything_the_user_gives(recipe: Recipe) -> None:
    assert recipe.program is not None
    words = command(recipe)
    assert (PLACEHOLDER in words) == bool(recipe.data.form)
    assert (WEIGHTS in words) == bool(recipe.program.weights)
    (task,) = recipe.on("photos", 3, weights="w.pth", processes=1, device="cuda").programs
    given = {PLACEHOLDER: "photos", WEIGHTS: "w.pth", DEVICE: "cuda"}
    assert task.command == tuple(given.get(word, word) for word in words)
    assert task.label == words[1]
    assert {"seed", "out"} <= {name for name in ("seed", "out") if task.has(name)}
    if not recipe.has_device:
        with pytest.raises(ZeromeanError, match=f"{recipe.name} trains in one process, not in 4"):
            recipe.on("photos", processes=4)
        return
    several = recipe.on("photos", processes=4, precision="bfloat16")
    (task,) = several.programs
    assert shlex.join(task.command).startswith("torchrun --nproc-per-node 4 --master-port '{port}'")
    assert task.command[-1] == "--amp"


@every
def test_every_option_is_one_of_the_program(recipe: Recipe) -> None:
    words = command(recipe)
    programs = Path(sys.modules["zeromean.recipes"].__path__[0], "programs")
    source = (programs / f"{words[1].rpartition('.')[2]}.py").read_text()
    shared = (programs / "training.py").read_text()
    known = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source + shared))
    if "add_device(" not in source:
        known.remove("--device")
    used = {word for word in words[2:] if word.startswith("--")}
    used |= {w for method in recipe.study.methods for w in method.arguments if w.startswith("--")}
    assert used <= known
    assert recipe.program is not None
    assert set(recipe.program.lengths) <= used


@every
def test_program_reports_every_metric_of_the_recipe(recipe: Recipe) -> None:
    (task,) = recipe.study.programs
    reported = [parse_metric(one).name for one in (task.metric, *task.other_metrics)]
    assert [name.removesuffix("_error") for name in recipe.metrics] == reported
    key = Key("", "", "plain", 0, FINAL)
    numbers = {name: 10.0 + place for place, name in enumerate(reported)}
    last = Epoch(2, {"score": 10.0, **{name: numbers[name] for name in reported[1:]}})
    run = Run(key, Candidate(0.1), (Epoch(1, {"score": 1.0}), last), test_score=10.0)
    for name in recipe.metrics:
        value = numbers[name.removesuffix("_error")]
        assert METRICS[name].of(run) == (100 - value if name.endswith("_error") else value)


def test_extras_install_what_the_programs_import() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for recipe in RECIPES:
        assert recipe.program is not None
        text = " ".join(extras[recipe.program.extra])
        names = {*re.findall(r"\w+", text.replace("-", "_"))}
        # timm requires torchvision.
        names |= {"torchvision"} if "timm" in names else set()
        assert set(recipe.program.modules) <= names


# --- settings


@pytest.mark.parametrize("recipe", of("gc-table5") + of("gc-table6"), ids=lambda one: one.name)
def test_detection_is_trained_as_published(recipe: Recipe) -> None:
    words, heading = options(command(recipe)), str(recipe.columns[0].heading)
    backbone = re.match(r"(R|X)(50|101)(-32x4d|-64x4d)?", heading)
    assert backbone is not None
    name = {"R": "resnet", "X": "resnext"}[backbone[1]] + backbone[2]
    assert words["--backbone"] == [name + (backbone[3] or "").replace("-", "_")]
    assert ("--masks" in words) == recipe.name.startswith("gc-table6")
    assert ("--ws" in words) == heading.endswith("+WS")
    assert (words.get("--norm") == ["group"]) == ("GN" in heading)
    assert (words.get("--box-head") == ["4c1f"]) == ("4c1f" in heading or "GN" in heading)
    schedule = (24, 16, 22) if "GN" in heading else (12, 8, 11)
    assert (*words["--epochs"], *words["--drops"]) == schedule
    assert GC["table5"]["schedule"] == "1x"
    assert "8 GPUs x 2 images" in GC["table5"]["what"]
    assert recipe.program is not None
    assert (recipe.program.processes, words["--batch-size"]) == (8, [16])
    assert (words["--min-size"], words["--max-size"]) == ([800], [1333])
    assert [words[f"--{one}"] for one in ("lr", "momentum", "weight-decay")] == [
        [0.02], [0.9], [1e-4],
    ]  # fmt: skip
    assert (words["--clip"], words["--warmup"]) == ([35], [500])
    assert recipe.study.method_labels == ("plain", "gc")
    if heading in ("X101-32x4d", "R101GN", "R50GN+WS"):
        assert any("No public weights of torchvision equal" in note for note in recipe.notes)


@pytest.mark.parametrize("recipe", of("gc-market1501"), ids=lambda one: one.name)
def test_reidentification_is_trained_as_published(recipe: Recipe) -> None:
    words = options(command(recipe))
    assert words["--model"] == [str(recipe.columns[0].heading).replace("R", "resnet")]
    adam = {"--optimizer": ["adam"], "--lr": [3.5e-4], "--weight-decay": [5e-4]}
    assert adam.items() <= words.items()
    assert (words["--epochs"], words["--drops"], words["--warmup"]) == ([120], [40, 70], [10])
    assert (words["--identities"], words["--images"]) == ([16], [4])
    assert (words["--height"], words["--width"], words["--pad"]) == ([256], [128], [10])
    losses = [words[f"--{one}"] for one in ("smoothing", "margin", "center-weight", "center-lr")]
    assert losses == [[0.1], [0.3], [0.0005], [0.5]]
    assert "GC = SGD_GCC (lr .03 or .02, weight decay .002)" in GC["reid"]["what"]
    sgd, gcc = recipe.study.method("sgd"), recipe.study.method("gc-conv@sgd")
    assert options(sgd.arguments) == {
        "--optimizer": ["sgd"], "--lr": [0.03], "--weight-decay": [0.002],
    }  # fmt: skip
    assert (gcc.arguments, gcc.gradient, gcc.at) == (sgd.arguments, "gc-conv", "gradient")


@pytest.mark.parametrize("recipe", of("gc-table3"), ids=lambda one: one.name)
def test_imagenet_is_trained_as_published(recipe: Recipe) -> None:
    paper, words = GC["table3"]["recipe"], options(command(recipe))
    assert paper["gc"] == "conv layers only"
    assert [(m.label, m.gradient, m.arguments) for m in recipe.study.methods] == [
        ("plain", None, ()),
        ("gc-conv", "gc-conv", ()),
        ("group", None, ("--norm", "group")),
        ("gc-conv@group", "gc-conv", ("--norm", "group")),
    ]
    assert paper["optimizer"] == "SGDM .9"
    assert words["--momentum"] == [0.9]
    (model,) = words["--model"]
    depth = str(model).removeprefix("resnet")
    batches = dict(re.findall(r"R(\d+) (\d+x\d+)", paper["batch"]))
    devices, each = map(int, batches[depth].split("x"))
    assert recipe.program is not None
    assert (recipe.program.processes, words["--batch-size"]) == (devices, [devices * each])
    for column in recipe.columns:
        assert column.heading == f"R{depth}{'GN' if 'group' in column.baseline else 'BN'}"
    assert recipe.metrics == ("top1_error", "top5_error")


@pytest.mark.parametrize("recipe", of("gc-table4"), ids=lambda one: one.name)
def test_fine_tuning_is_trained_as_published(recipe: Recipe) -> None:
    paper, words = GC["table4"]["recipe"], options(command(recipe))
    for name, option in {
        "epochs": "--epochs",
        "batch_size": "--batch-size",
        "momentum": "--momentum",
        "resize": "--resize",
        "center_crop": "--size",
        "lr_conv": "--lr",
        "lr_fc": "--head-lr",
    }.items():
        assert words[option] == [paper[name]], name
    assert words["--drops"] == paper["lr_drops_at"]
    assert recipe.data.shape == (3, paper["center_crop"], paper["center_crop"])
    assert recipe.study.seeds == recipe.repeats == paper["repeats"]
    assert recipe.columns[0].heading == recipe.data.name
    assert recipe.study.method_labels == ("plain", "gc")


# --- scale


@every
def test_scale_shortens_every_length_and_nothing_else(recipe: Recipe) -> None:
    assert recipe.program is not None
    lengths = recipe.program.lengths
    before, after = recipe.study, scaled(recipe.study, 0.75, lengths)
    old, new = options(command(recipe)), options(after.programs[0].command)
    for name, values in old.items():
        expected = [max(1, round(0.75 * float(v))) for v in values] if name in lengths else values
        assert new[name] == expected, name
    assert after.methods == before.methods
    assert recipe.length_of(after)[0] == max(1, round(0.75 * recipe.length[0]))


def test_scale_without_room_for_the_drops_is_refused_with_one_that_has_room() -> None:
    recipe = registry.find("gc-table5-r50")
    assert recipe.program is not None
    lengths = recipe.program.lengths
    with pytest.raises(ZeromeanError, match="--epochs 12 --drops 8 11 has no room in 1 of 12") as e:
        scaled(recipe.study, 0.05, lengths)
    enough = float(e.value.fix.rpartition(" ")[2])
    short = options(scaled(recipe.study, enough, lengths).programs[0].command)
    assert len({*short["--epochs"], *short["--drops"]}) == 3


# --- data, weights and extras


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_coco(folder: Path) -> None:
    write_files(folder, "train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg", "val2017/readme.txt")
    write_files(folder, "annotations/instances_train2017.json")
    text = json.dumps({"categories": [{"id": 1}, {"id": 90}]})
    (folder / "annotations/instances_val2017.json").write_text(text)


def write_market(folder: Path) -> None:
    train = [f"bounding_box_train/{i}_c1s1_000451_03.jpg" for i in ("0002", "0002", "0007")]
    write_files(folder, *train, "bounding_box_train/0007_c2s1_000451_03.jpg")
    write_files(folder, "query/0003_c1s1_000451_00.jpg", "bounding_box_test/Thumbs.db")
    for identity in ("-1", "0000", "0003"):
        write_files(folder, f"bounding_box_test/{identity}_c3s1_000451_03.jpg")


def write_folders(folder: Path) -> None:
    write_files(folder, "train/a/1.png", "train/b/1.png", "train/b/2.png", "val/a/1.png")
    write_files(folder, "val/b/1.png", "train/a/notes.txt", "train/.ipynb_checkpoints/1.png")


WRITERS: dict[str, tuple[Callable[[Path], None], tuple[int, int, int]]] = {
    "coco": (write_coco, (2, 1, 2)),
    "market1501": (write_market, (3, 3, 2)),
    "imagefolder": (write_folders, (3, 2, 2)),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("gc-table5-r50", "coco"),
        ("gc-market1501-r18", "market1501"),
        ("gc-table3-resnet50", "imagefolder"),
    ],
)
def test_data_are_counted_and_every_missing_part_is_named(
    name: str, form: str, tmp_path: Path
) -> None:
    recipe = registry.find(name)
    write, counts = WRITERS[form]
    write(tmp_path)
    found = program_data.find(recipe, str(tmp_path))
    assert (found.train, found.test, found.classes) == counts
    conditions = RunConditions.of_program(recipe, recipe.study, found, 1.0, 1)
    assert f"not {recipe.data.name}." in conditions.note
    for part in [*tmp_path.iterdir()]:
        part.rename(tmp_path / "away")
        with pytest.raises(ZeromeanError, match=re.escape(f"there is no {part}")) as error:
            program_data.find(recipe, str(tmp_path))
        assert error.value.fix == f"Put into {recipe.data.form}: {recipe.data.note}"
        (tmp_path / "away").rename(part)


def test_wrong_content_of_a_folder_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    (tmp_path / "coco/annotations/instances_val2017.json").write_text("[]")
    with pytest.raises(ZeromeanError, match="is not a file of annotations in COCO's format"):
        program_data.find(registry.find("gc-table5-r50"), str(tmp_path / "coco"))
    write_files(tmp_path / "flat", "train/1.png", "test/1.png")
    with pytest.raises(ZeromeanError, match="train has no folders of classes"):
        program_data.find(registry.find("gc-table4-cub"), str(tmp_path / "flat"))


@pytest.mark.parametrize(
    ("name", "form", "test_images"),
    [
        ("gc-table5-r50", "coco", "val2017/*.jpg"),
        ("gc-market1501-r18", "market1501", "bounding_box_test/*.jpg"),
        ("gc-table3-resnet50", "imagefolder", "val/*/*.png"),
    ],
)
def test_folders_without_test_images_are_refused(
    name: str, form: str, test_images: str, tmp_path: Path
) -> None:
    recipe = registry.find(name)
    write, (train, _, _) = WRITERS[form]
    write(tmp_path)
    for file in [*tmp_path.glob(test_images), *tmp_path.glob("query/*")]:
        file.unlink()
    with pytest.raises(ZeromeanError, match=f"has {train} training and 0 test images") as error:
        program_data.find(recipe, str(tmp_path))
    assert error.value.fix == f"Put into {recipe.data.form}: {recipe.data.note}"


def test_published_sizes_are_recognized_and_processes_named() -> None:
    recipe = registry.find("gc-table3-resnet50")
    data = recipe.data
    found = program_data.Found(data.train, data.test, data.classes, "images")
    same = RunConditions.of_program(recipe, recipe.study, found, 1.0, 4)
    assert same.comparable
    assert same.note == "Recipe gc-table3-resnet50."
    other = RunConditions.of_program(recipe, recipe.study, found, 1.0, 1)
    assert "Each run is on 1 device, not on 4 as published." in other.note


def test_missing_package_names_the_extra() -> None:
    recipe = registry.find("gc-market1501-r50")
    assert recipe.program is not None
    missing = [one for one in recipe.program.modules if find_spec(one) is None]
    assert missing  # torchvision lives outside the packages of the tests
    with pytest.raises(MissingExtraError, match=f"needs {' and '.join(missing)}") as error:
        recipe.program.check_installed(recipe.name)
    assert error.value.fix == "Run pip install 'zeromean[reid]'"


def reproduce(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["reproduce", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "gc-table5-r50 --weights w",
            "--data is missing; gc-table5-r50 needs COCO 2017 (coco:DIR)",
        ),
        ("gc-table5-r50 --weights w --data coco", "is 'coco', not of the form coco:DIR"),
        ("gc-table5-r50 --weights w --data imagefolder:x", "not of the form coco:DIR"),
        ("gc-table5-r50 --data coco:x", "--weights is missing; gc-table5-r50 starts from torchv"),
        ("gc-table5-r50 --data coco:x --weights no", "there is no file no; gc-table5-r50 starts"),
        ("gc-table3-resnet50 --data imagefolder:x --weights w", "takes no pretrained weights"),
        ("gc-table3-resnet50 --data imagefolder:x --processes 0", "processes is 0"),
        ("gc-table3-resnet50 --data imagefolder:x --ray h:1", "Ray cannot run programs"),
        ("gc-table3-resnet50 --data imagefolder:x", "zeromean[timm]"),
        ("reinforce-cartpole --data digits", "reinforce-cartpole needs no data. Remove --data"),
        ("reinforce-cartpole --device cuda", "runs on the CPU alone"),
        ("reinforce-cartpole --processes 2", "reinforce-cartpole trains in one process, not in 2"),
        ("reinforce-cartpole", "zeromean[rl]"),
        ("reinforce-cartpole --scale 2", "scale is 2; it has to be above 0"),
        ("reinforce-cartpole --precision half", "precision 'half' is not one of"),
    ],
)
def test_whatever_is_missing_ends_in_one_line(
    words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w").touch()
    code, stdout, stderr = reproduce(*words.split())
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert line in stderr
    assert [*tmp_path.iterdir()] == [tmp_path / "w"]


def test_study_file_of_a_program_declares_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "gc-table3-resnet50 --data imagefolder:x --processes 2 --scale 0.1 --study-file s.toml"
    assert reproduce(*words.split()) == (0, "s.toml\n", "")
    recipe = registry.find("gc-table3-resnet50")
    assert recipe.program is not None
    expected = scaled(recipe.on("x", processes=2), 0.1, recipe.program.lengths)
    assert toml.read(Path("s.toml")) == expected


def test_runs_of_unknown_duration_need_a_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zeromean.recipes.recipe.find_spec", lambda name: True)
    write_folders(tmp_path / "photos")
    code, stdout, stderr = reproduce("gc-table3-resnet50", "--data", "imagefolder:photos")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "takes a time that is known after the first run, which needs a confirm" in stderr
    text = " ".join(stdout.split())
    assert "4 runs of 100 epochs" in text
    assert "Other data than published: 3 training and 2 test images of 2 classes in photos" in text
    assert not (tmp_path / "gc-table3-resnet50").exists()

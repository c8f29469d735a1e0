"""Loaded tasks: text, functions of the user, subsets, shifts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from study_helpers import with_task

from zeromean.errors import ZeromeanError
from zeromean.study import FunctionTask, ImageTask, Study, TextTask, Tuning, run
from zeromean.study.data.text import LENGTH, read_text, windows
from zeromean.study.spec.metric import ACCURACY, LOSS
from zeromean.study.tasks.augment import PADDING, Affine, CropFlip
from zeromean.study.tasks.load import load_problem
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.subset import take_subset


def loaded(study: Study, **changes: object) -> Problem:
    changed = with_task(study, **changes)
    return load_problem(changed, changed.tasks[0])


def test_every_character_but_the_first_is_a_target() -> None:
    text = "".join(chr(97 + number * number % 26) for number in range(20 * LENGTH + 7))
    pieces, alphabet = windows(text)
    assert alphabet == len(set(text))
    assert pieces.shape == (20, LENGTH + 1)
    targets = pieces[:, 1:].flatten()
    ranked = dict(zip(text[1:], targets.tolist(), strict=False))
    assert [ranked[one] for one in text[1 : len(targets) + 1]] == targets.tolist()
    assert sorted(ranked.values()) == [*range(alphabet)]
    assert torch.equal(pieces[1:, 0], pieces[:-1, -1])


def test_python_carries_a_text() -> None:
    text = read_text("text")
    assert len(text) > 300_000
    assert "Python" in text


@pytest.mark.parametrize("tuned", [False, True])
def test_a_text_is_divided_in_its_order_into_characters_and_the_next_ones(
    tmp_path: Path, tuned: bool
) -> None:
    # Each character stands for its place: 50 pieces, of which the last 5 are the test set.
    text = "".join(chr(0x4E00 + place % 250) for place in range(50 * LENGTH + 1))
    (tmp_path / "text").write_text(text, encoding="utf-8")
    pieces, _ = windows(text)
    task = TextTask(data=f"text:{tmp_path / 'text'}")
    tuning = Tuning(rates=(0.1,), validation=0.2) if tuned else None
    problem = load_problem(Study(tasks=(task,), tuning=tuning), task)
    train = 36 if tuned else 45
    assert torch.equal(problem.train.inputs, pieces[:train, :-1])
    assert torch.equal(problem.test.inputs, pieces[45:, :-1])
    assert torch.equal(problem.watched.inputs, pieces[36:45, :-1] if tuned else pieces[45:, :-1])
    for part in (problem.train, problem.watched, problem.test):
        assert torch.equal(part.targets[:, :-1], part.inputs[:, 1:])
        assert torch.equal(part.targets[:-1, -1], part.inputs[1:, 0])


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_text_is_learned_and_scored_by_the_loss(tmp_path: Path, model: str) -> None:
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    task = TextTask(data=f"text:{file}", model=model, epochs=6, batch_size=4)
    study = Study(tasks=(task,), optimizers=("adamw",), seeds=1)
    results = run(study, tmp_path / "out")
    (comparison,) = results.comparisons
    assert comparison.metric == LOSS
    for one in comparison.runs:
        assert one.test_score == one.test_loss == one.epochs[-1].score
        assert one.epochs[-1].loss < 0.6 * one.epochs[0].loss


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a user with ``user_tasks.py``."""
    monkeypatch.chdir(Path(__file__).parents[1])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "place", ["user_tasks", "user_tasks.py", f"{Path(__file__).parents[1]}/user_tasks.py"]
)
def test_a_function_is_found_by_module_or_file(tmp_path: Path, place: str) -> None:
    task = FunctionTask(function=f"{place}:signs", epochs=8, batch_size=8)
    results = run(Study(tasks=(task,), lr=0.2, seeds=1), tmp_path)
    (comparison,) = results.comparisons
    assert comparison.metric == ACCURACY
    assert comparison.of("gc")[0].epochs[-1].score > 0.8


@pytest.mark.usefixtures("here")
def test_accuracy_of_several_classes_per_example_is_a_share(tmp_path: Path) -> None:
    task = FunctionTask(function="user_tasks:pairs_of_classes", epochs=8, batch_size=8)
    results = run(Study(tasks=(task,), lr=0.05, seeds=1), tmp_path)
    (comparison,) = results.comparisons
    last = comparison.of("plain")[0].epochs[-1]
    assert comparison.metric == ACCURACY
    assert 0.8 < last.score <= 1
    assert 0.8 < last.metrics["train_score"] <= 1


@pytest.mark.usefixtures("here")
def test_a_users_network_may_view_images_as_vectors(tmp_path: Path) -> None:
    """Its images were once laid out channels last, which ``view`` refuses."""
    task = FunctionTask(function="user_tasks:viewed_images", epochs=1, batch_size=8)
    assert run(Study(tasks=(task,), lr=0.2, seeds=1), tmp_path).runs[0].test_score is not None


@pytest.mark.usefixtures("here")
def test_computed_features_are_constants(tmp_path: Path) -> None:
    task = FunctionTask(function="user_tasks:computed_features", epochs=1, batch_size=8)
    assert run(Study(tasks=(task,), lr=0.2, seeds=1), tmp_path).runs[0].test_score is not None


@pytest.mark.usefixtures("here")
def test_real_targets_are_scored_by_the_loss(tmp_path: Path) -> None:
    task = FunctionTask(function="user_tasks:sums", epochs=4, batch_size=8)
    results = run(Study(tasks=(task,), seeds=1, lr=0.02), tmp_path)
    (comparison,) = results.comparisons
    assert comparison.metric == LOSS
    assert comparison.of("plain")[0].epochs[-1].loss < 0.1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("function", ["named_outputs", "one_logit", "complex_outputs"])
def test_outputs_without_classes_are_scored_by_the_loss(function: str) -> None:
    study = Study(tasks=(FunctionTask(function=f"user_tasks:{function}"),), lr=0.1)
    problem = load_problem(study, study.tasks[0])
    assert problem.metric == LOSS
    assert problem.fingerprint()


@pytest.mark.usefixtures("here")
def test_negative_targets_are_not_classes() -> None:
    study = Study(
        tasks=(FunctionTask(function="user_tasks:ignored_targets", train_size=20),), lr=0.1
    )
    problem = load_problem(study, study.tasks[0])
    assert len(problem.train.targets) == 20
    assert problem.metric == LOSS  # ignored targets once counted as wrong answers


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nowhere:task", "there is no module nowhere"),
        ("nowhere.py:task", "there is no file nowhere.py"),
        ("user_tasks:nothing", "user_tasks has no function nothing"),
        ("user_tasks:os", "is not a function"),
        ("user_tasks:built_model", "returned Sequential instead of a function that makes a model"),
        ("user_tasks:one_model", "makes two models that share trained parameters"),
        ("user_tasks:weights_of_numpy", "initial weights differ with the same seed. Draw all"),
        ("user_tasks:no_tuple", "returned function"),
        ("user_tasks:uneven", "64 inputs and 63 targets"),
        ("user_tasks:unfitting", r"raised RuntimeError: .* on its first examples"),
        ("user_tasks:no_mean", "a loss that is not a single number"),
        ("user_tasks:other_test", r"raised RuntimeError: .* on its first examples"),
        ("user_tasks:no_parameters", "a loss that does not depend on the parameters"),
        ("user_tasks:single_number", "data that is not a pair of tensors"),
        ("user_tasks:raising_data", r"raised KeyError: 'lost' in user_tasks.py, .* while its"),
        ("user_tasks:empty_data", "returned an empty Dataset"),
        ("user_tasks:fails_within_a_library", r"raised JSONDecodeError: .* in user_tasks.py, line"),
        ("user_tasks:fails", "raised ValueError: the disk is gone in user_tasks.py"),
        ("user_tasks:leaves", "raised SystemExit: 0 in user_tasks.py"),
    ],
)
def test_a_broken_function_is_explained_in_one_line(function: str, message: str) -> None:
    study = Study(tasks=(FunctionTask(function=function),), lr=0.1)
    with pytest.raises(ZeromeanError, match=message) as caught:
        load_problem(study, study.tasks[0])
    assert "\n" not in str(caught.value)


def examples(*counts: int) -> Examples:
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return Examples(torch.arange(len(targets)), targets)


@pytest.mark.parametrize(
    ("size", "imbalance", "expected"),
    [
        (None, 1.0, [40, 40, 40]),
        (30, 1.0, [10, 10, 10]),
        (4, 1.0, [2, 1, 1]),
        (32, 1.0, [11, 11, 10]),
        (None, 4.0, [40, 20, 10]),
        (35, 4.0, [20, 10, 5]),
    ],
)
def test_subsets_are_drawn_per_class(
    size: int | None, imbalance: float, expected: list[int]
) -> None:
    kept = take_subset(examples(40, 40, 40), ImageTask(train_size=size, imbalance=imbalance))
    assert torch.bincount(kept.targets).tolist() == expected
    assert len(kept.inputs.unique()) == len(kept.inputs)
    assert torch.equal(
        kept.inputs,
        take_subset(examples(40, 40, 40), ImageTask(train_size=size, imbalance=imbalance)).inputs,
    )
    in_order = torch.cat([40 * label + torch.arange(n) for label, n in enumerate(expected)])
    assert torch.equal(kept.inputs, in_order) == (min(expected) == 40)  # drawn at random


@pytest.mark.parametrize(
    ("size", "imbalance", "message"),
    [
        (1000, 1.0, "^train_size = 1000 takes 334 of the 40 training examples of class"),
        (None, 1000.0, "^imbalance = 1000.0 takes 0 of the 40 training examples of class 2"),
        (2, 4.0, "takes 0 of"),
    ],
)
def test_impossible_subsets_are_refused(size: int | None, imbalance: float, message: str) -> None:
    with pytest.raises(ZeromeanError, match=message):
        take_subset(examples(40, 40, 40), ImageTask(train_size=size, imbalance=imbalance))


def test_only_classes_can_be_imbalanced() -> None:
    numbers = Examples(torch.arange(9), torch.rand(9))
    for one in (numbers, Examples(numbers.inputs, numbers.targets.to(torch.complex64))):
        assert len(take_subset(one, ImageTask(train_size=5)).inputs) == 5
        message = r"train_size = 10 takes 10 of the 9 training examples\. Lower train_size\."
        with pytest.raises(ZeromeanError, match=message):
            take_subset(one, ImageTask(train_size=10))
    with pytest.raises(ZeromeanError, match="the targets are not classes"):
        take_subset(numbers, ImageTask(imbalance=2.0))


def test_classes_that_do_not_occur_get_no_examples() -> None:
    targets = torch.arange(60) % 2 * (2**40) + 1
    kept = take_subset(Examples(targets, targets), ImageTask(train_size=30, imbalance=2.0))
    assert [int((kept.targets == one).sum()) for one in (1, 2**40 + 1)] == [20, 10]


def test_train_size_keeps_the_test_set(study: Study) -> None:
    whole, small = loaded(study), loaded(study, train_size=12)
    assert len(small.train.targets) == 12
    assert torch.equal(small.test.inputs, whole.test.inputs)
    assert "train_size=12" in replace(study.tasks[0], train_size=12).label


def test_validation_examples_are_held_out(study: Study) -> None:
    tuned = replace(study, tuning=Tuning(rates=(0.1,), validation=0.25))
    whole, parts = loaded(study), load_problem(tuned, study.tasks[0])
    assert torch.equal(parts.test.inputs, whole.test.inputs)
    assert len(parts.watched.targets) == 12
    assert torch.bincount(parts.watched.targets).tolist() == [4, 4, 4]
    both = torch.cat([parts.train.inputs, parts.watched.inputs]).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.train.inputs.flatten(1).tolist())


def test_validation_of_a_short_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("to be or not " * 110)
    task = TextTask(data=f"text:{tmp_path / 'text'}", batch_size=1)
    study = Study(tasks=(task,), tuning=Tuning(rates=(0.1,), validation=0.01))
    with pytest.raises(ZeromeanError, match="training examples cannot be held out"):
        load_problem(study, task)


def test_fingerprint_covers_inputs_and_targets_of_every_part(study: Study) -> None:
    tuned = replace(study, tuning=Tuning(rates=(0.1,)))
    problem = load_problem(tuned, study.tasks[0])
    found = {problem.fingerprint()}
    for part in ("train", "watched", "test"):
        for name, one in getattr(problem, part)._asdict().items():
            changed = getattr(problem, part)._replace(**{name: one.flip(0)})
            found.add(dataclasses.replace(problem, **{part: changed}).fingerprint())
    assert len(found) == 7


BORDERS = {
    "black": {"value": 0.0},
    "mean": {"value": 50.0},
    "reflect": {"mode": "reflect"},
}


@pytest.mark.parametrize("border", BORDERS)
def test_images_are_shifted_and_mirrored(border: str) -> None:
    images = torch.arange(1, 1 + 3 * 6 * 6, dtype=torch.uint8).view(1, 3, 6, 6).repeat(400, 1, 1, 1)
    color = None if border == "reflect" else torch.full((3, 1, 1), BORDERS[border]["value"])
    change = CropFlip(color)
    changed = change(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    padded = torch.nn.functional.pad(images[:1].float(), (PADDING,) * 4, **BORDERS[border])[0]
    possible = {
        tuple(view.flatten().tolist())
        for row in range(9)
        for column in range(9)
        for crop in [padded[:, row : row + 6, column : column + 6]]
        for view in (crop, crop.flip(2))
    }
    seen = {tuple(image.flatten().tolist()) for image in changed}
    assert seen <= possible
    # Reflection makes many views equal.
    assert len(seen) > (80 if border == "reflect" else 120)
    assert torch.equal(changed, change(images, torch.Generator().manual_seed(0)))


def test_tiny_images_can_be_reflected() -> None:
    images = torch.rand(50, 1, 2, 2)
    changed = CropFlip(None)(images, torch.Generator().manual_seed(0))
    assert set(changed.flatten().tolist()) <= set(images.flatten().tolist())


@pytest.mark.parametrize("border", ["mean", "black", "reflect"])
def test_the_border_is_a_setting_and_named(study: Study, border: str) -> None:
    problem = loaded(study, augment="crop-flip", border=border)
    assert border in problem.preprocessing.partition("; the border ")[2]
    assert isinstance(problem.augment, CropFlip)
    color = problem.augment.color
    if border == "mean":
        mean = problem.train.inputs.double().mean((0, 2, 3))
        assert color is not None
        torch.testing.assert_close(color.flatten().double(), mean.round())
    else:
        assert (color is None) == (border == "reflect")
        assert color is None or not color.any()


def test_whitened_images_have_a_border_of_zeros(study: Study) -> None:
    problem = loaded(study, augment="crop-flip", preprocess="zca")
    assert isinstance(problem.augment, CropFlip)
    assert problem.augment.color is not None
    assert not problem.augment.color.any()
    with pytest.raises(ZeromeanError, match="no color is black"):
        loaded(study, augment="crop-flip", preprocess="zca", border="black")


def test_augmentation_is_for_training_only(study: Study) -> None:
    plain, changed = (loaded(study, augment=augment) for augment in ("none", "crop-flip"))
    assert plain.augment is None
    assert loaded(study, augment="affine").augment == Affine()
    assert torch.equal(
        plain.scored_inputs(plain.test.inputs), changed.scored_inputs(changed.test.inputs)
    )
    assert plain.metric == ACCURACY

"""From what is declared to what is trained on: text, one's own tasks, cuts, changes of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.study.data.text import LENGTH, read_text, windows
from zeromean.study.spec.metric import ACCURACY, LOSS
from zeromean.study.tasks.problem import Examples
from zeromean.study import Study
from zeromean.study import ImageTask
from zeromean.study.tasks.augment import Affine, crop_flip
from zeromean.study.tasks.load import load
from zeromean.study.tasks.parts import cut
from zeromean.study import Tuning


def test_every_character_but_the_first_is_told_once() -> None:
    text = "".join(chr(97 + number * number % 26) for number in range(20 * LENGTH + 7))
    pieces, alphabet = windows(text)
    assert alphabet == len(set(text))
    assert pieces.shape == (20, LENGTH + 1)
    told = pieces[:, 1:].flatten()
    ranked = dict(zip(text[1:], told.tolist(), strict=False))
    assert [ranked[one] for one in text[1 : len(told) + 1]] == told.tolist()
    assert torch.equal(pieces[1:, 0], pieces[:-1, -1])


def test_python_carries_a_text() -> None:
    text = read_text("text")
    assert len(text) > 300_000
    assert "Python" in text


def test_texts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZeromeanError, match="a text of 5 characters"):
        windows("short")
    with pytest.raises(ZeromeanError, match="cannot be read"):
        read_text(f"text:{tmp_path}/nowhere")
    with pytest.raises(ZeromeanError, match="model cnn for text; wanted lstm, transformer"):
        ImageTask(data="text")
    with pytest.raises(ZeromeanError, match="model lstm for digits; wanted mlp"):
        ImageTask(model="lstm")
    with pytest.raises(ZeromeanError, match="augment crop-flip for text"):
        ImageTask(data="text", model="lstm", augment="crop-flip")


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_text_is_learned_and_scored_by_the_loss(tmp_path: Path, model: str) -> None:
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    task = ImageTask(data=f"text:{file}", model=model, epochs=6, batch_size=4)
    study = Study(tasks=(task,), optimizers=("adamw",), seeds=1)
    results = run(study, tmp_path / "out")
    (comparison,) = results.comparisons
    assert comparison.metric is LOSS
    for run in comparison.runs:
        assert run.test_score == run.test_loss == run.epochs[-1].score
        assert run.epochs[-1].loss < 0.6 * run.epochs[0].loss


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a user with ``user_tasks.py``."""
    monkeypatch.chdir(Path(__file__).parent)


@pytest.mark.usefixtures("here")
def test_a_task_of_ones_own_needs_a_function_alone(tmp_path: Path) -> None:
    arguments = ["--task", "user_tasks:signs", "--lr", "0.2", "--epochs", "8", "--batch-size", "8"]
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["compare", *arguments, "--seeds", "2", "--out", str(out)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Final accuracy, %" in result.stdout
    assert "user_tasks:signs" in (out / "report.html").read_text()


@pytest.mark.usefixtures("here")
def test_targets_that_are_no_classes_are_scored_by_the_loss(tmp_path: Path) -> None:
    task = ImageTask(function="user_tasks:sums", epochs=4, batch_size=8)
    results = Study(tasks=(task,), seeds=1, lr=0.02).run(tmp_path)
    (comparison,) = results.comparisons
    assert comparison.metric is LOSS
    assert comparison.of("plain")[0].epochs[-1].loss < 0.1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("function", ["named_outputs", "one_logit"])
def test_outputs_that_are_no_scores_of_classes_are_scored_by_the_loss(function: str) -> None:
    study = Study(tasks=(ImageTask(function=f"user_tasks:{function}"),), lr=0.1)
    assert load(study, study.tasks[0]).metric is LOSS


@pytest.mark.usefixtures("here")
def test_negative_targets_are_no_classes_to_choose_within() -> None:
    study = Study(tasks=(ImageTask(function="user_tasks:ignored_targets", train_size=20),), lr=0.1)
    assert len(load(study, study.tasks[0]).train.targets) == 20


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("user_tasks", "not of the form module:function"),
        ("nowhere:task", "needs a module nowhere, which is not there"),
        ("user_tasks:nothing", "AttributeError"),
        ("user_tasks:built_model", "returned the model Sequential, not what makes one"),
        ("user_tasks:no_tuple", "returned function"),
        ("user_tasks:uneven", "64 inputs and 63 targets"),
        ("user_tasks:unfitting", "failed on its own first examples"),
        ("user_tasks:no_mean", "a loss that is not a single number"),
        ("user_tasks:other_test", "failed on its own first examples"),
        ("user_tasks:no_parameters", "a loss that no parameter of its model changes"),
        ("user_tasks:single_number", "no pair of tensors"),
        ("user_tasks:raising_data", "a Dataset that cannot be stacked (KeyError: 'lost')"),
        ("user_tasks:fails", "raised ValueError: the disk is gone"),
    ],
)
def test_a_function_that_breaks_the_contract_is_told_in_one_line(
    function: str, message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        app, ["compare", "--task", function, "--lr", "0.1", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert "module:function" in result.stderr or "model() makes a fresh network" in result.stderr


def test_a_function_brings_its_own_and_needs_a_rate() -> None:
    with pytest.raises(ZeromeanError, match="leave the others out"):
        ImageTask(function="a:b", model="mlp")
    with pytest.raises(ZeromeanError, match="without a learning rate"):
        Study(tasks=(ImageTask(function="a:b"),))


def examples(*counts: int) -> Examples:
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return Examples(torch.arange(len(targets)), targets)


@pytest.mark.parametrize(
    ("size", "imbalance", "expected"),
    [
        (None, 1.0, [40, 40, 40]),
        (30, 1.0, [10, 10, 10]),
        (None, 4.0, [40, 20, 10]),
        (35, 4.0, [20, 10, 5]),
    ],
)
def test_training_examples_are_cut_class_by_class(
    size: int | None, imbalance: float, expected: list[int]
) -> None:
    kept = cut(examples(40, 40, 40), ImageTask(train_size=size, imbalance=imbalance))
    assert torch.bincount(kept.targets).tolist() == expected
    assert len(kept.inputs.unique()) == len(kept.inputs)
    assert torch.equal(
        kept.inputs, cut(examples(40, 40, 40), ImageTask(train_size=size, imbalance=imbalance)).inputs
    )


@pytest.mark.parametrize(
    ("size", "imbalance", "message"),
    [
        (1000, 1.0, "333 of the 40 training examples of class"),
        (None, 1000.0, "take 0 of the 40 training examples of class 2"),
        (2, 4.0, "take 0 of"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(size: int | None, imbalance: float, message: str) -> None:
    with pytest.raises(ZeromeanError, match=message):
        cut(examples(40, 40, 40), ImageTask(train_size=size, imbalance=imbalance))


def test_only_classes_can_be_imbalanced() -> None:
    numbers = Examples(torch.arange(9), torch.rand(9))
    assert len(cut(numbers, ImageTask(train_size=5)).inputs) == 5
    with pytest.raises(ZeromeanError, match="targets that are no classes"):
        cut(numbers, ImageTask(imbalance=2.0))


def test_a_cut_task_trains_on_less_and_tests_on_the_same(study: Study) -> None:
    whole = load(study, study.tasks[0])
    task = replace(study.tasks[0], train_size=12)
    small = load(study, task)
    assert len(small.train.targets) == 12
    assert torch.equal(small.test.inputs, whole.test.inputs)
    assert "train_size=12" in task.label


def test_validation_examples_are_neither_trained_on_nor_tested(study: Study) -> None:
    tuned = replace(study, tuning=Tuning(rates=(0.1,), validation=0.25))
    whole, parts = load(study, study.tasks[0]), load(tuned, study.tasks[0])
    assert torch.equal(parts.test.inputs, whole.test.inputs)
    assert len(parts.watched.targets) == 12
    assert torch.bincount(parts.watched.targets).tolist() == [4, 4, 4]
    both = torch.cat([parts.train.inputs, parts.watched.inputs]).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.train.inputs.flatten(1).tolist())


def test_images_are_shifted_and_mirrored(study: Study) -> None:
    images = torch.arange(1, 1 + 3 * 6 * 6, dtype=torch.uint8).view(1, 3, 6, 6).repeat(400, 1, 1, 1)
    changed = crop_flip(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    padded = torch.nn.functional.pad(images[0], (4, 4, 4, 4))
    possible = {
        tuple(view.flatten().tolist())
        for row in range(9)
        for column in range(9)
        for crop in [padded[:, row : row + 6, column : column + 6]]
        for view in (crop, crop.flip(2))
    }
    seen = {tuple(image.flatten().tolist()) for image in changed}
    assert seen <= possible
    assert len(seen) > 120  # of 162
    again = crop_flip(images, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)


def test_training_sees_changed_images_and_evaluation_does_not(study: Study) -> None:
    plain, changed = (
        load(study, replace(study.tasks[0], augment=augment))
        for augment in ("none", "crop-flip")
    )
    assert plain.augment is None
    assert changed.augment is crop_flip
    task = replace(study.tasks[0], augment="affine")
    assert load(study, task).augment == Affine()
    assert torch.equal(plain.prepare(plain.test.inputs), changed.prepare(changed.test.inputs))
    assert plain.metric is ACCURACY

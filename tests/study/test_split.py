"""Test sets of data that come without one: how many images, and whose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from study_files import write_idx
from torch import Tensor
from zeromean.study.facts import Facts

from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study, Tuning
from zeromean.study.tasks.load import load
from zeromean.study.tasks.problem import Problem


def with_task(study: Study, **changes: object) -> Study:
    return replace(study, tasks=(replace(study.tasks[0], **changes),))  # type: ignore[arg-type]


def loaded(study: Study) -> Problem:
    return load(study, study.tasks[0])


def rows(*parts: Tensor) -> list[bytes]:
    """Every image, in an order that does not depend on theirs."""
    return sorted(bytes(image.numpy()) for part in parts for image in part)


def test_as_many_of_each_class_are_held_out_as_is_asked_for(study: Study) -> None:
    problem = loaded(with_task(study, test_per_class=3))
    assert torch.bincount(problem.test.targets).tolist() == [3, 3, 3]
    assert torch.bincount(problem.train.targets).tolist() == [17, 17, 17]
    usual = loaded(study)
    everything = rows(usual.train.inputs, usual.test.inputs)
    assert rows(problem.train.inputs, problem.test.inputs) == everything
    assert "3 of each class held out" in problem.split
    assert "the same for every run" in problem.split


@pytest.mark.parametrize("per_class", [None, 4])
def test_each_seed_has_a_split_of_its_own_from_the_same_images(
    study: Study, per_class: int | None
) -> None:
    study = with_task(study, split="seed", test_per_class=per_class)
    problem = loaded(study)
    first, second = (problem.for_seed(seed) for seed in (0, 1))
    assert rows(first.train.inputs, first.test.inputs) == rows(
        second.train.inputs, second.test.inputs
    )
    assert rows(first.test.inputs) != rows(second.test.inputs)
    assert [*map(len, first.train)] == [*map(len, second.train)]
    again = loaded(study).for_seed(1)
    assert torch.equal(again.test.inputs, second.test.inputs)
    assert again.digest() == second.digest()
    assert "anew each seed" in problem.split
    assert problem.digest() == first.digest()
    assert loaded(with_task(study, split="fixed")).for_seed(1).of_seed is None


def test_validation_examples_are_of_the_seeds_own_training_examples(study: Study) -> None:
    study = dataclasses.replace(with_task(study, split="seed"), tuning=Tuning(rates=(0.1, 0.2)))
    problem = loaded(study)
    for seed in (0, 3):
        own = problem.for_seed(seed)
        assert own.watched is not own.test
        assert len(own.train.targets) == 38
        assert len(own.watched.targets) == 10
        parts = (own.train.inputs, own.watched.inputs, own.test.inputs)
        assert len(set(rows(*parts))) == 60
    assert Facts.of(study, study.tasks[0], problem).watched == "validation"


def test_a_study_of_seeds_with_their_own_splits_trains_as_one_by_one(
    study: Study, tmp_path: Path
) -> None:
    study = with_task(study, split="seed", test_per_class=5)
    together = run(study, tmp_path / "together")
    alone = replace(study, precision="bfloat16").run(tmp_path / "alone")
    for results in (together, alone):
        assert len(results.runs) == 4
        assert all(run.test_score is not None for run in results.runs)
    first, second = (
        {run.key[2:4]: run.epochs[0].train_loss for run in results.runs}
        for results in (together, alone)
    )
    assert second == pytest.approx(first, rel=0.02)  # bfloat16 has two digits


def test_data_with_a_test_set_keep_it(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for change in ({"split": "seed"}, {"test_per_class": 2}):
        task = ImageTask(data=f"idx:{tmp_path}", model="mlp", **change)  # type: ignore[arg-type]
        with pytest.raises(ZeromeanError, match="which has a test set of its own"):
            loaded(Study(tasks=(task,)))


def test_what_cannot_be_held_out_is_refused(study: Study) -> None:
    with pytest.raises(ZeromeanError, match="at least 21 a class, since 20 are held out"):
        loaded(with_task(study, test_per_class=20))
    with pytest.raises(ZeromeanError, match="split 'random'; wanted fixed, seed"):
        ImageTask(split="random")
    with pytest.raises(ZeromeanError, match="test_per_class = 0; wanted 1 or more"):
        ImageTask(test_per_class=0)
    with pytest.raises(ZeromeanError, match="split seed for text"):
        ImageTask(data="text", model="lstm", split="seed")

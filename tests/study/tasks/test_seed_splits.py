"""Tasks whose data has no test set, with one split for all seeds or one per seed."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from study_files import write_idx
from study_helpers import with_task
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study, Tuning, run
from zeromean.study.tasks.load import load, load_problem
from zeromean.study.tasks.problem import Problem


def loaded(study: Study) -> Problem:
    return load_problem(study, study.tasks[0])


def images(*parts: Tensor) -> list[bytes]:
    return sorted(bytes(image.numpy()) for part in parts for image in part)


def test_test_per_class_is_the_number_of_test_images_per_class(study: Study) -> None:
    problem = loaded(with_task(study, test_per_class=3))
    assert torch.bincount(problem.test.targets).tolist() == [3, 3, 3]
    assert torch.bincount(problem.train.targets).tolist() == [17, 17, 17]
    assert problem.split.startswith("3 of each class")


@pytest.mark.parametrize("per_class", [None, 4])
def test_each_seed_has_its_own_split_of_the_same_images(
    study: Study, per_class: int | None
) -> None:
    study = with_task(study, split="seed", test_per_class=per_class)
    problem = loaded(study)
    first, second = (problem.for_seed(seed) for seed in (0, 1))
    assert images(first.train.inputs, first.test.inputs) == images(
        second.train.inputs, second.test.inputs
    )
    assert images(first.test.inputs) != images(second.test.inputs)
    again = loaded(study).for_seed(1)
    assert torch.equal(again.test.inputs, second.test.inputs)
    assert again.fingerprint() == second.fingerprint()
    assert problem.fingerprint() == first.fingerprint()
    assert loaded(with_task(study, split="fixed")).for_seed(1).of_seed is None


def test_validation_examples_come_from_training_examples(study: Study) -> None:
    study = replace(with_task(study, split="seed"), tuning=Tuning(rates=(0.1, 0.2)))
    problem = loaded(study)
    for seed in (0, 3):
        own = problem.for_seed(seed)
        assert own.watched is not own.test
        assert (len(own.train.targets), len(own.watched.targets)) == (38, 10)
        assert len({*images(own.train.inputs, own.watched.inputs, own.test.inputs)}) == 60
    assert load(study, study.tasks[0]).info.watched == "validation"


@pytest.mark.parametrize("tuning", [None, Tuning(rates=(0.1, 0.2), seeds=3)])
def test_only_the_splits_in_use_are_kept(study: Study, tuning: Tuning | None) -> None:
    problem = loaded(replace(with_task(study, split="seed"), tuning=tuning))
    seen = [weakref.ref(problem.for_seed(seed)) for seed in range(12)]
    gc.collect()
    kept = 1 if tuning is None else tuning.seeds
    assert [one() is not None for one in seen] == [False] * (12 - kept) + [True] * kept
    assert problem.for_seed(11) is seen[11]()


def test_study_with_a_split_per_seed_is_trained(study: Study, tmp_path: Path) -> None:
    results = run(with_task(study, split="seed", test_per_class=5), tmp_path / "out")
    assert len(results.runs) == 4
    assert all(one.test_score is not None for one in results.runs)


def test_split_options_are_refused_for_data_with_a_test_set(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for change in ({"split": "seed"}, {"test_per_class": 2}):
        task = ImageTask(data=f"idx:{tmp_path}", model="mlp", **change)  # type: ignore[arg-type]
        with pytest.raises(ZeromeanError, match="has its own test set"):
            loaded(Study(tasks=(task,)))

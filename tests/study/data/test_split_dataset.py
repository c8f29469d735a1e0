"""Test sets of data that comes without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from study_files import patterns, write_idx
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import split
from zeromean.study.data.load import load_dataset, read_dataset, split_dataset
from zeromean.study.data.split import SplitSpec, UnsplitDataset


def images(*parts: Tensor) -> list[bytes]:
    return sorted(bytes(image.numpy()) for part in parts for image in part)


def parts(data: Dataset) -> tuple[Tensor, Tensor]:
    train, test = (torch.cat([*split(one, 7)]) for one in (data.train_images, data.test_images))
    return train, test


def test_per_class_holds_out_that_many(archive: Path) -> None:
    data = load_dataset(f"npz:{archive}", split=SplitSpec(per_class=3))
    assert data.test_labels.bincount().tolist() == [3, 3, 3]
    assert data.train_labels.bincount().tolist() == [17, 17, 17]
    assert images(*parts(data)) == images(torch.from_numpy(patterns(60)[0]))
    assert data.split == "3 of each class, chosen at random (stratified, seed 0 for every run)"


@pytest.mark.parametrize("per_class", [None, 4])
def test_each_seed_has_its_own_split_of_the_same_images(
    archive: Path, per_class: int | None
) -> None:
    whole = read_dataset(f"npz:{archive}")
    first, second, again = (split_dataset(whole, SplitSpec(per_class, seed)) for seed in (0, 1, 1))
    assert images(*parts(first)) == images(*parts(second))
    assert images(parts(first)[1]) != images(parts(second)[1])
    assert torch.equal(parts(second)[1], parts(again)[1])
    assert len(first.test_labels) == len(second.test_labels)
    assert "a new choice per seed" in first.split


def test_labels_stay_with_their_images() -> None:
    whole = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1)
    labels = torch.arange(40) % 4
    data = UnsplitDataset("made", whole, labels.numpy(), tuple("abcd"), 0.25).divide()
    assert torch.equal(parts(data)[0].flatten() % 4, data.train_labels)
    assert torch.equal(parts(data)[1].flatten() % 4, data.test_labels)
    assert len(data.test_labels) == 10
    assert data.test_labels.bincount().min() == 2


def test_data_with_a_test_set_keeps_it(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for spec in (SplitSpec(seed=0), SplitSpec(per_class=2)):
        with pytest.raises(ZeromeanError, match="which has its own test set"):
            load_dataset(f"idx:{tmp_path}", split=spec)


def test_too_small_classes_are_refused(archive: Path) -> None:
    with pytest.raises(ZeromeanError, match="at least 21 are needed to hold out 20"):
        load_dataset(f"npz:{archive}", split=SplitSpec(per_class=20))

"""Small tasks for the study's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from study_files import write_npz

from zeromean.study import ImageTask, Study


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Networks this small lose more to a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An .npz file with 60 images of 8x8 in three classes, without a split."""
    return write_npz(tmp_path / "images.npz")


@pytest.fixture
def study(archive: Path) -> Study:
    """A study that takes a fraction of a second."""
    task = ImageTask(data=f"npz:{archive}", model="mlp", epochs=3, batch_size=8)
    return Study(tasks=(task,), seeds=2)

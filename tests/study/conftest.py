"""Small tasks for the study's tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from study_files import write_npz

from zeromean.study.study import Study
from zeromean.study.task import Task


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
    task = Task(data=f"npz:{archive}", model="mlp", epochs=3, batch_size=8)
    return Study(tasks=(task,), seeds=2)


@pytest.fixture
def large(study: Study) -> Study:
    """The same study with a network whose runs train one by one."""
    return dataclasses.replace(study, tasks=(dataclasses.replace(study.tasks[0], model="cnn"),))


@pytest.fixture(params=["small", "large"])
def either(request: pytest.FixtureRequest, study: Study, large: Study) -> Study:
    """A study whose runs train together, and one whose runs do not."""
    return study if request.param == "small" else large

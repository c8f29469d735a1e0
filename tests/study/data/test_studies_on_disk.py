"""Studies of images on disk end with the same numbers, bit for bit, as studies in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from study_files import CHANGES, write_pictures
from study_helpers import PowerCut, records, with_task

from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study, Tuning, run
from zeromean.study.data.disk_images import IMAGES, MEMORY_VARIABLE, DiskImages
from zeromean.study.tasks.load import load_problem

UNLIMITED = "1000"


def make_study(tmp_path: Path, **changes: Any) -> Study:
    """A study of colored JPEGs of all sizes, of which the first is gray."""
    files = write_pictures(tmp_path / "files")
    task = ImageTask(
        data=f"imagefolder:{files}",
        model="cnn",
        resize=12,
        crop=8,
        augment="resized-crop-flip",
        epochs=2,
        batch_size=8,
    )
    return with_task(Study(tasks=(task,), seeds=1, threads=1), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_size": 30, "imbalance": 2.0},
        {"preprocess": "pixel", "augment": "crop-flip", "gray": True},
        {"preprocess": "zca", "crop": None},
    ],
    ids=["whole", "subset", "pixel", "zca"],
)
@pytest.mark.parametrize("tuned", [False, True])
def test_study_ends_the_same_in_memory_and_on_disk(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    tuned: bool,
) -> None:
    study = make_study(tmp_path, **changes)
    if tuned:
        study = replace(study, tuning=Tuning(rates=(0.01, 0.1), validation=0.25))
    monkeypatch.setenv(MEMORY_VARIABLE, UNLIMITED)
    in_memory = run(study, tmp_path / "memory")
    monkeypatch.setenv(MEMORY_VARIABLE, "0")
    on_disk = run(study, tmp_path / "disk")
    assert [*cache.glob(f"*/{IMAGES}")]
    assert records(on_disk) == records(in_memory)
    assert on_disk.infos == in_memory.infos  # the fingerprint among them


def test_study_in_memory_continues_on_disk(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, seeds=2)
    monkeypatch.setenv(MEMORY_VARIABLE, UNLIMITED)
    uncut = run(study, tmp_path / "uncut")
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "cut", watcher=PowerCut(2))
    monkeypatch.setenv(MEMORY_VARIABLE, "0")
    assert records(run(study, tmp_path / "cut", jobs=2)) == records(uncut)


@pytest.mark.parametrize("change", CHANGES)
def test_study_of_changed_files_is_refused(
    tmp_path: Path, cache: Path, change: Callable[[Path], None]
) -> None:
    study = make_study(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "out", watcher=PowerCut(1))
    change(tmp_path / "files")
    with pytest.raises(ZeromeanError, match="does not have the data that"):
        run(study, tmp_path / "out")


def test_study_of_touched_files_continues(tmp_path: Path, cache: Path) -> None:
    study = make_study(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "out", watcher=PowerCut(1))
    (tmp_path / "files/train/n01/0003.JPEG").touch()
    assert records(run(study, tmp_path / "out")) == records(run(study, tmp_path / "again"))


def test_fingerprint_and_standardization_read_no_pixels(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path)
    problem = load_problem(study, study.tasks[0])
    monkeypatch.delattr(DiskImages, "_read")
    assert len(problem.fingerprint()) == 64
    assert callable(problem.preprocess)  # Fitted by now.

"""The example on folders of images, run as a script on small generated images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "keras_image_folders.py"


def draw(folder: Path, count: int, seed: int) -> Path:
    """Write images of a horizontal or vertical bright bar on noise."""
    draws = np.random.default_rng(seed)
    for kind in ("horses", "humans"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            image = draws.integers(0, 60, (40, 40, 3), dtype=np.uint8)
            at = draws.integers(8, 28)
            bar = np.s_[at : at + 6, :] if kind == "horses" else np.s_[:, at : at + 6]
            image[bar] += 180
            Image.fromarray(image).save(folder / kind / f"{number}.png")
    return folder


def run(*arguments: object, backend: str = "torch") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=os.environ | {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


def test_runs_differ_only_by_centering(
    tmp_path: Path, supports: Callable[[str, str, str, str], None]
) -> None:
    train, validation = draw(tmp_path / "train", 24, 0), draw(tmp_path / "validation", 8, 1)
    done = run(train, validation, "--size", 36, "--batch", 12, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(plain|centralized) +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.M)
    assert [row[0] for row in rows] == ["plain", "centralized"]
    assert "centered: 5 of 10 parameters" in done.stdout
    losses = [float(row[3]) for row in rows]
    assert losses[0] != losses[1]
    assert max(losses) < 1.0
    what = "Keras, the example on folders of images"
    supports("Driver", what, "gradient", "plain and centralized from the same weights")


def test_wrong_folders_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    done = run(tmp_path, tmp_path)
    assert done.returncode == 1
    assert "two are needed, one per class" in done.stderr
    assert "Traceback" not in done.stderr

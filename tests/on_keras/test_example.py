"""The example on folders of images, run as a script on small generated images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_programs import run_here

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


def run(*arguments: object) -> str:
    return run_here(str(SCRIPT), *map(str, arguments))


def test_runs_differ_only_by_centering(
    tmp_path: Path, supports: Callable[[str, str, str, str], None]
) -> None:
    train, validation = draw(tmp_path / "train", 24, 0), draw(tmp_path / "validation", 8, 1)
    output = run(train, validation, "--size", 36, "--batch", 12, "--epochs", 1)
    rows = re.findall(r"^(plain|centralized) +([\d.]+) +([\d.]+) +([\d.]+)$", output, re.M)
    assert [row[0] for row in rows] == ["plain", "centralized"]
    assert "centered: 5 of 10 parameters" in output
    losses = [float(row[3]) for row in rows]
    assert losses[0] != losses[1]
    assert max(losses) < 1.0
    what = "Keras, the example on folders of images"
    supports("Driver", what, "gradient", "plain and centralized from the same weights")


def test_wrong_folders_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(SystemExit, match="two are needed, one per class"):
        run(tmp_path, tmp_path)

"""What networks see of images: gray, standardized, whitened, and in which order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study
from zeromean.study.data.load import load_dataset as load_data
from zeromean.study.spec import toml
from zeromean.study.tasks.augment import crop_flip
from zeromean.study.tasks.load import load
from zeromean.study.tasks.preprocessing import (
    PREPARATIONS,
    ZCA_RIDGE,
    contrast_normalized,
    fit_whitening,
    gray,
    pixel_moments,
)
from zeromean.study.tasks.problem import Problem


def noise(count: int = 300, channels: int = 3, side: int = 4, seed: int = 0) -> Tensor:
    """Bytes of images whose pixels depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    base = torch.randint(0, 128, shape, generator=generator)
    return (base + base.roll(1, 3)).to(torch.uint8)


@pytest.fixture
def color(tmp_path: Path) -> Path:
    """An .npz file of colored images in three classes."""
    labels = np.arange(60) % 3
    images = noise(60, side=8).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "color.npz", images=images, labels=labels)
    return tmp_path / "color.npz"


def problem_of(data: Path, **changes: object) -> Problem:
    task = dataclasses.replace(ImageTask(data=f"npz:{data}", model="mlp", batch_size=8), **changes)  # type: ignore[arg-type]
    return load(Study(tasks=(task,)), task)


def test_gray_is_what_pillow_makes_of_colors() -> None:
    images = noise(1200, side=3)
    made = gray(images)
    for image, expected in zip(images[::97], made[::97], strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(np.asarray(picture.convert("L")), expected[0])


def test_pixels_are_standardized_each_by_itself() -> None:
    images = noise(2100)
    images[:, :, 0, 0] = 9
    mean, deviation = pixel_moments(images)
    standard = PREPARATIONS["pixel"].fit(images)(images).double()
    torch.testing.assert_close(mean.double(), images.double().mean(0), rtol=1e-6, atol=0)
    assert not standard[:, :, 0, 0].any()  # constant, and not divided by zero
    moving = standard.flatten(2)[:, :, 1:]
    assert moving.mean(0).abs().max() < 1e-5
    assert (moving.std(0, correction=0) - 1).abs().max() < 1e-5
    assert (deviation[:, 0, 0] == 1).all()


def test_whitening_takes_the_covariance_away() -> None:
    images = noise(4000)
    whitened = fit_whitening(images)(images).flatten(1).double()
    assert whitened.mean(0).abs().max() < 1e-5
    before = torch.cov(contrast_normalized(images).flatten(1).double().T, correction=0)
    after = torch.cov(whitened.T, correction=0)
    # Variance l along an axis becomes l / (l + ridge).
    variances = torch.linalg.eigvalsh(before).clamp_min(0)
    expected = variances / (variances + ZCA_RIDGE)
    torch.testing.assert_close(torch.linalg.eigvalsh(after), expected, rtol=1e-3, atol=1e-4)


def test_zca_turns_nothing_so_images_stay_images() -> None:
    images = noise(4000)
    matrix = fit_whitening(images).keywords["matrix"]  # type: ignore[attr-defined]
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0


@given(st.integers(0, 2**16), st.sampled_from([1, 3]))
def test_contrast_is_that_of_the_whole_image(seed: int, channels: int) -> None:
    images = noise(3, channels, side=5, seed=seed)
    images[0] = 77
    made = contrast_normalized(images).double()
    assert not made[0].any()
    assert made[1:].mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(
        made[1:].square().mean((1, 2, 3)), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("name", PREPARATIONS)
def test_what_is_fitted_does_not_depend_on_the_number_of_threads(name: str) -> None:
    images = noise(1500, side=8)
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            prepare = PREPARATIONS[name].fit(images)
            torch.set_num_threads(1)
            made.append(prepare(images[:9]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)


def test_an_image_is_whitened_whole_and_then_shifted(color: Path) -> None:
    whitened = problem_of(color, prepare="zca", augment="crop-flip")
    standard = problem_of(color, augment="crop-flip")
    batch = whitened.train.inputs[:8]
    seen = {
        name: problem.training_inputs(batch, torch.Generator().manual_seed(3))
        for name, problem in (("zca", whitened), ("channel", standard))
    }
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(seen["zca"], crop_flip(whitened.prepare(batch), generator))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(seen["channel"], standard.prepare(crop_flip(batch, generator)))


def test_gray_images_go_through_the_whole_study(color: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = f"--data npz:{color} --model mlp --gray --prepare pixel --schedule every=1 --epochs 2"
    result = CliRunner().invoke(
        app, ["compare", *words.split(), "--seeds", "1", "--batch-size", "8", "--out", str(out)]
    )
    assert (result.exit_code, result.stderr) == (0, "")
    page = (out / "report.html").read_text()
    for word in ("8x8x1", "made gray; each pixel", "times 0.1 after every 1 epochs", " --gray "):
        assert word in page
    assert load_data(f"npz:{color}").channels == 3


def test_a_file_says_how_images_are_prepared(tmp_path: Path) -> None:
    study = Study(tasks=(ImageTask(model="mlp", prepare="zca", gray=True, schedule="drops=3,9"),))
    file = tmp_path / "study.toml"
    file.write_text(toml.to_toml(study))
    assert toml.read(file) == study
    assert study.tasks[0].label == "digits/mlp prepare=zca gray=True schedule=drops=3,9"
    file.write_text("[[tasks]]\ngray = 1\n")
    with pytest.raises(ZeromeanError, match="line 2: gray = 1; wanted true or false"):
        toml.read(file)


def test_what_cannot_be_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZeromeanError, match="prepare 'noise'; wanted channel, pixel, zca"):
        ImageTask(prepare="noise")
    with pytest.raises(ZeromeanError, match="gray True for text; wanted images"):
        ImageTask(data="text", model="lstm", gray=True)
    with pytest.raises(
        ZeromeanError,
        match="with data, model, augment, prepare, gray, resize, crop, test_per_class or split",
    ):
        ImageTask(function="a:b", prepare="pixel")
    task = ImageTask(gray=True)
    with pytest.raises(ZeromeanError, match="gray with digits, whose images are; wanted colored"):
        load(Study(tasks=(task,)), task)
    images = np.zeros((12, 112, 112), np.uint8)
    np.savez(tmp_path / "large.npz", images=images, labels=np.arange(12) % 2)
    with pytest.raises(ZeromeanError, match=r"zca for images of 12,544 numbers; wanted 12,288"):
        problem_of(tmp_path / "large.npz", prepare="zca")

"""Preprocessing of images: gray, standardized, whitened, and the order of these."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Schedule, Study, run
from zeromean.study.tasks.load import load_problem
from zeromean.study.tasks.preprocessing import (
    PREPROCESSINGS,
    ZCA_RIDGE,
    contrast_normalized,
    fit_whitening,
    pixel_moments,
    to_gray,
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
    task = replace(ImageTask(data=f"npz:{data}", model="mlp", batch_size=8), **changes)
    return load_problem(Study(tasks=(task,)), task)


def test_gray_agrees_with_pillow() -> None:
    images = noise(1200, side=3)
    made = to_gray(images)
    for image, expected in zip(images[::97], made[::97], strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(np.asarray(picture.convert("L")), expected[0])


def test_pixels_are_standardized_separately() -> None:
    images = noise(2100)
    images[:, :, 0, 0] = 9
    mean, deviation = pixel_moments(images)
    standard = PREPROCESSINGS["pixel"].fit(images)(images).double()
    torch.testing.assert_close(mean.double(), images.double().mean(0), rtol=1e-6, atol=0)
    assert not standard[:, :, 0, 0].any()  # constant, and not divided by zero
    moving = standard.flatten(2)[:, :, 1:]
    assert moving.mean(0).abs().max() < 1e-5
    assert (moving.std(0, correction=0) - 1).abs().max() < 1e-5
    assert (deviation[:, 0, 0] == 1).all()


def test_whitening_removes_the_covariance() -> None:
    images = noise(4000)
    whitened = fit_whitening(images)(images).flatten(1).double()
    assert whitened.mean(0).abs().max() < 1e-5
    before = torch.cov(contrast_normalized(images).flatten(1).double().T, correction=0)
    after = torch.cov(whitened.T, correction=0)
    # Variance l along an axis becomes l / (l + ridge).
    variances = torch.linalg.eigvalsh(before).clamp_min(0)
    expected = variances / (variances + ZCA_RIDGE)
    torch.testing.assert_close(torch.linalg.eigvalsh(after), expected, rtol=1e-3, atol=1e-4)


def test_zca_matrix_is_symmetric_and_positive() -> None:
    images = noise(4000)
    matrix = fit_whitening(images).keywords["matrix"]  # type: ignore[attr-defined]
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0


@given(st.integers(0, 2**16), st.sampled_from([1, 3]))
def test_contrast_normalization_uses_the_whole_image(seed: int, channels: int) -> None:
    images = noise(3, channels, side=5, seed=seed)
    images[0] = 77
    made = contrast_normalized(images).double()
    assert not made[0].any()
    assert made[1:].mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(
        made[1:].square().mean((1, 2, 3)), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_rounding_errors_of_a_constant_image_are_not_amplified() -> None:
    """On a GPU the mean of a constant may differ from it, because the sum is multiplied by 1/n."""
    images = torch.full((1, 3, 5, 5), 77.0)
    images[0, 0, 0, 0] = 77.00001
    assert contrast_normalized(images).abs().max() < 1e-4


def test_large_images_are_fitted_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def recording_split(images: Tensor, size: int) -> Iterable[Tensor]:
        sizes.append(size)
        return torch.split(images, size)

    monkeypatch.setattr("zeromean.study.tasks.preprocessing.split", recording_split)
    images = noise(2, side=512)
    mean, _ = pixel_moments(images)
    torch.testing.assert_close(mean.double(), images.double().mean(0))
    assert to_gray(images).shape == (2, 1, 512, 512)
    assert max(sizes) * images[0].numel() <= 2**24


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_fit_does_not_depend_on_threads(name: str) -> None:
    images = noise(1500, side=8)
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            preprocess = PREPROCESSINGS[name].fit(images)
            torch.set_num_threads(1)
            made.append(preprocess(images[:9]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)


def test_order_of_whitening_and_standardization(color: Path) -> None:
    for name in ("zca", "channel"):
        problem = problem_of(color, preprocess=name, augment="crop-flip")
        batch = problem.train.inputs[:8]
        seen = problem.training_inputs(batch, torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(3)
        assert problem.augment is not None
        if name == "zca":
            expected = problem.augment(problem.preprocess(batch), generator)
        else:
            expected = problem.preprocess(problem.augment(batch, generator))
        assert torch.equal(seen, expected)


def test_gray_images_go_through_a_study(color: Path, tmp_path: Path) -> None:
    schedule = Schedule("step", every=1)
    task = ImageTask(
        data=f"npz:{color}", model="mlp", gray=True, preprocess="pixel", schedule=schedule,
        epochs=2, batch_size=8,
    )  # fmt: skip
    (comparison,) = run(Study(tasks=(task,), seeds=1), tmp_path / "out").comparisons
    assert "8x8x1" in comparison.info.description
    assert comparison.info.preprocessing.startswith("converted to gray; each pixel")
    assert "gray=True" in comparison.task.label


def test_impossible_preprocessing_is_refused(tmp_path: Path) -> None:
    task = ImageTask(gray=True)
    with pytest.raises(ZeromeanError, match="the images of digits are gray already"):
        load_problem(Study(tasks=(task,)), task)
    images = np.zeros((12, 112, 112), np.uint8)
    np.savez(tmp_path / "large.npz", images=images, labels=np.arange(12) % 2)
    with pytest.raises(ZeromeanError, match="takes images of at most 12,288 numbers, but these"):
        problem_of(tmp_path / "large.npz", preprocess="zca")

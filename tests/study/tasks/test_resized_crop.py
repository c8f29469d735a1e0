"""Random resized crops, compared with a slow twin that handles one image at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from study_files import write_imagefolder
from study_helpers import PowerCut, records
from torch import Tensor
from torch.nn import functional as F

from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study, run
from zeromean.study.tasks.augment import TRIES, ResizedCrop, center
from zeromean.study.tasks.load import load_problem


def pictures(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow(images: Tensor, generator: torch.Generator, crop: ResizedCrop) -> Tensor:
    """Do what the docstring says, one image at a time."""
    count, _, height, width = images.shape
    areas, ratios = (torch.rand(count, TRIES, generator=generator) for _ in range(2))
    lefts, tops, mirrors = (torch.rand(count, generator=generator).tolist() for _ in range(3))
    made = []
    for number, image in enumerate(images):
        wide, high = width, height
        for share, place in zip(areas[number].tolist(), ratios[number].tolist(), strict=True):
            area = height * width * (crop.area[0] + (crop.area[1] - crop.area[0]) * share)
            low, up = map(math.log, crop.aspect_ratio)
            ratio = math.exp(low + (up - low) * place)
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                wide, high = w, h
                break
        left = math.floor(lefts[number] * (width - wide + 1))
        top = math.floor(tops[number] * (height - high + 1))
        part = image[None, :, top : top + high, left : left + wide].float()
        scaled = F.interpolate(part, (crop.side, crop.side), mode="bilinear", align_corners=False)
        made.append(scaled.flip(3) if mirrors[number] < 0.5 else scaled)
    return torch.cat(made)


@given(st.integers(0, 2**32), st.sampled_from([7, 16, 33]), st.sampled_from([1, 6, 14, 40]))
def test_it_is_the_slow_twin(seed: int, stored: int, side: int) -> None:
    images, crop = pictures(12, stored), ResizedCrop(side)
    fast = crop(images, drawn(seed))
    assert fast.shape == (12, 3, side, side)
    torch.testing.assert_close(fast, slow(images, drawn(seed), crop), atol=0.02, rtol=0)


def test_it_is_the_slow_twin_in_the_size_of_imagenet() -> None:
    images, crop = pictures(8, 256), ResizedCrop(224)
    torch.testing.assert_close(
        crop(images, drawn()), slow(images, drawn(), crop), atol=0.05, rtol=0
    )


def test_rectangles_are_drawn_as_published() -> None:
    side, count = 256, 20_000
    seen: dict[str, Tensor] = {}

    def look(images: Tensor, **maps: Tensor) -> None:
        seen.update(maps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zeromean.study.tasks.augment.resampled", look)
        ResizedCrop(224)(torch.empty(count, 0, side, side), drawn())
    wide, high, left, top = (seen[name] for name in ("wide", "high", "left", "top"))
    assert all(torch.equal(one, one.round()) for one in (wide, high, left, top))
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + wide <= side).all()
    assert (top + high <= side).all()
    area, ratio = wide * high / side**2, wide / high
    assert 0.075 < area.min() < 0.085
    assert area.max() > 0.99
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    small = area < 0.5  # where every first try fits, what is drawn is uniform
    assert area[small].mean() == pytest.approx(0.29, abs=0.01)
    assert ratio[small].log().mean() == pytest.approx(0, abs=0.01)
    assert ((left == 0) & (top == 0)).any()
    assert ((left + wide == side) & (top + high == side)).any()
    assert seen["mirrored"].double().mean() == pytest.approx(0.5, abs=0.02)


def test_whole_image_after_ten_attempts() -> None:
    images = pictures(40, 16)
    never = ResizedCrop(16, area=(1, 1), aspect_ratio=(2, 2.0001))
    made = never(images, drawn()).round().byte()
    straight, mirrored = ((made == one).flatten(1).all(1) for one in (images, images.flip(3)))
    assert (straight ^ mirrored).all()


def test_crops_depend_on_the_generator_and_differ_per_image() -> None:
    images = pictures(1, 16).repeat(9, 1, 1, 1)
    state = torch.get_rng_state()
    first = ResizedCrop(12)(images, drawn(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, ResizedCrop(12)(images, drawn(3)))
    assert len(first.flatten(1).unique(dim=0)) == 9


def test_center_agrees_with_image_files() -> None:
    from PIL import Image

    from zeromean.study.data.image_files import ImageTransform

    for stored, side in ((8, 5), (9, 4), (7, 7)):
        image = pictures(1, stored)
        picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
        kept = np.asarray(ImageTransform(crop=side).apply("it", picture)).transpose(2, 0, 1)
        assert np.array_equal(center(image, side)[0], kept)


@pytest.fixture
def task(tmp_path: Path) -> ImageTask:
    """Images of 8x8, stored at 12x12, of which the network sees 9x9."""
    write_imagefolder(tmp_path / "files", color=True)
    return ImageTask(
        data=f"imagefolder:{tmp_path / 'files'}",
        model="mlp",
        resize=12,
        crop=9,
        augment="resized-crop-flip",
        epochs=3,
        batch_size=6,
    )


@pytest.mark.parametrize("name", ["channel", "pixel", "zca"])
def test_center_of_whole_images_is_scored(task: ImageTask, name: str) -> None:
    task = replace(task, preprocess=name)
    problem = load_problem(Study(tasks=(task,)), task)
    assert problem.train.inputs.shape == (30, 3, 12, 12)
    assert problem.shape == (3, 9, 9)
    ((stored, _),) = problem.test.split(100)
    scored = problem.scored_inputs(stored)
    assert torch.equal(scored, problem.preprocess(stored)[:, :, 1:10, 1:10])
    trained = problem.training_inputs(stored, drawn())
    assert torch.equal(trained, ResizedCrop(9)(problem.preprocess(stored), drawn()))
    assert problem.preprocessing.endswith("the center 9x9 pixels are scored")
    assert problem.make()(scored).shape == (12, 3)


def test_no_crop_shows_whole_images(task: ImageTask) -> None:
    for data, side in ((task.data, 12), ("digits", 8)):
        resize = 12 if side == 12 else None
        plain = replace(task, data=data, crop=None, resize=resize)
        problem = load_problem(Study(tasks=(plain,)), plain)
        assert problem.shape[1:] == problem.train.inputs.shape[2:] == (side, side)
        assert "are scored" not in problem.preprocessing


def test_crop_is_at_most_the_image() -> None:
    task = ImageTask(augment="resized-crop-flip", crop=6)
    assert load_problem(Study(tasks=(task,)), task).shape == (1, 6, 6)
    large = replace(task, crop=9)
    with pytest.raises(ZeromeanError, match="crop 9 is larger than the images of digits, 8x8"):
        load_problem(Study(tasks=(large,)), large)


def test_interrupted_study_resumes_exactly(task: ImageTask, tmp_path: Path) -> None:
    study = Study(tasks=(task,), seeds=1)
    whole = records(run(study, tmp_path / "whole"))
    for epoch in (0, 3):
        with pytest.raises(RuntimeError, match="power cut"):
            run(study, tmp_path / f"cut-{epoch}", watcher=PowerCut(epoch))
        assert records(run(study, tmp_path / f"cut-{epoch}")) == whole

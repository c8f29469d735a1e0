"""Random affine maps, compared with scipy's and by their invariants."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import ndimage
from torch import Tensor

from zeromean.study import ImageTask, Optimizer, Study, run
from zeromean.study.tasks.augment import Affine, warped

STILL = Affine(rotation=0, shift=0, shear=0, zoom=0, flip=False)


def pictures(count: int = 1, height: int = 9, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 2, height, width), generator=generator, dtype=torch.uint8)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_range_is_no_change() -> None:
    images = pictures(4, 7, 12)
    torch.testing.assert_close(STILL(images, drawn()), images.float(), atol=1e-3, rtol=0)


def test_half_of_the_images_are_mirrored() -> None:
    images = pictures().repeat(400, 1, 1, 1)
    changed = dataclasses.replace(STILL, flip=True)(images, drawn())
    straight, mirrored = (
        (changed - wanted.float()).abs().amax((1, 2, 3)) < 1e-3
        for wanted in (images, images.flip(3))
    )
    assert (straight ^ mirrored).all()
    assert 160 < mirrored.sum() < 240  # four standard deviations


def test_the_generator_alone_decides() -> None:
    images = pictures(16)
    state = torch.get_rng_state()
    first = Affine()(images, drawn(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, Affine()(images, drawn(3)))
    other = Affine()(images, drawn(4))
    assert ((first - other).abs().amax((1, 2, 3)) > 1).all()


def test_maps_differ_per_image_and_agree_per_channel() -> None:
    images = pictures()[:, :1].repeat(8, 2, 1, 1)
    changed = Affine()(images, drawn())
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert len(changed[:, 0].flatten(1).unique(dim=0)) == 8


def test_a_constant_image_stays_as_it_is() -> None:
    images = torch.full((6, 3, 10, 10), 77, dtype=torch.uint8)
    torch.testing.assert_close(Affine()(images, drawn()), images.float(), atol=1e-3, rtol=0)


def moved(images: Tensor, **maps: float) -> Tensor:
    one = {name: torch.tensor([maps.get(name, 0.0)]) for name in ("angle", "shear")}
    shift, zoom = (
        tuple(torch.tensor([maps.get(name, default)]) for name in names)
        for names, default in ((("right", "down"), 0.0), (("wide", "high"), 1.0))
    )
    mirrored = torch.tensor([bool(maps.get("mirrored", False))])
    return warped(images, **one, shift=shift, zoom=zoom, mirrored=mirrored)


def test_quarter_turns_and_whole_shifts_are_exact() -> None:
    images = pictures(height=8, width=8)
    turned = moved(images, angle=math.pi / 2)
    torch.testing.assert_close(turned, images.float().rot90(dims=(2, 3)), atol=1e-2, rtol=0)
    shifted = moved(images, right=0.25, down=-0.125)
    wanted = images.float()[:, :, :-1, 2:]
    torch.testing.assert_close(shifted[:, :, 1:, :-2], wanted, atol=1e-2, rtol=0)
    border = wanted[..., -1:].expand(-1, -1, -1, 2)  # what lies beyond is the border's
    torch.testing.assert_close(shifted[:, :, 1:, -2:], border, atol=1e-2, rtol=0)


@given(
    angle=st.floats(-0.7, 0.7),
    shear=st.floats(-0.3, 0.3),
    right=st.floats(-0.2, 0.2),
    down=st.floats(-0.2, 0.2),
    wide=st.floats(0.8, 1.2),
    high=st.floats(0.8, 1.2),
    mirrored=st.booleans(),
    width=st.sampled_from([9, 14]),
)
def test_the_map_is_scipys(
    angle: float,
    shear: float,
    right: float,
    down: float,
    wide: float,
    high: float,
    mirrored: bool,
    width: int,
) -> None:
    """With the matrices of Keras's image generator, of x and y around the center."""
    images = pictures(height=9, width=width)
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.array([[1, 0, right * width], [0, 1, down * 9], [0, 0, 1]])
    sheared = np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
    matrix = rotation @ shift @ sheared @ np.diag([wide, high, 1])
    center = np.array([(width - 1) / 2, 4.0])
    offset = matrix[:2, 2] + center - matrix[:2, :2] @ center
    swap = [1, 0]  # scipy's coordinates are rows and columns
    oracle = np.stack(
        [
            ndimage.affine_transform(
                channel, matrix[:2, :2][swap][:, swap], offset[swap], order=1, mode="nearest"
            )
            for channel in images[0].double().numpy()
        ]
    )
    if mirrored:
        oracle = oracle[:, :, ::-1].copy()
    found = moved(
        images, angle=angle, shear=shear, right=right, down=down, wide=wide, high=high,
        mirrored=mirrored,
    )  # fmt: skip
    torch.testing.assert_close(found[0].double(), torch.from_numpy(oracle), atol=0.02, rtol=0)


def test_the_bounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(
        "zeromean.study.tasks.augment.warped", lambda images, **maps: seen.update(maps)
    )
    Affine()(pictures(4000), drawn())
    bounds = {
        "angle": (seen["angle"], 0, math.radians(40)),
        "shear": (seen["shear"], 0, math.radians(0.2)),
        **{f"shift {n}": (one, 0, 0.2) for n, one in enumerate(seen["shift"])},
        **{f"zoom {n}": (one, 1, 0.2) for n, one in enumerate(seen["zoom"])},
    }
    for values, middle, bound in bounds.values():
        assert (values - middle).abs().max() <= bound * (1 + 1e-6)
        assert (values - middle).abs().max() > 0.99 * bound
        assert values.mean().item() == pytest.approx(middle, abs=0.05 * bound)
    drawn_values = torch.stack([values for values, _, _ in bounds.values()])
    assert (torch.corrcoef(drawn_values) - torch.eye(6)).abs().max() < 0.07


def test_affine_study_is_reproducible(study: Study, tmp_path: Path) -> None:
    task = replace(study.tasks[0], augment="affine", epochs=1)
    again = replace(study, tasks=(task,), seeds=1)
    losses = [
        [one.epochs[0].train_loss for one in run(again, tmp_path / name).runs] for name in "ab"
    ]
    assert losses[0] == losses[1]
    plain = replace(again, tasks=(replace(task, augment="none"),))
    assert run(plain, tmp_path / "c").runs[0].epochs[0].train_loss != losses[0][0]


def test_tutorial_settings_train(tmp_path: Path) -> None:
    """Its network, dropout and all, its changes of images and its optimizer."""
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = generator.integers(0, 100, (48, 24, 24, 3), dtype=np.uint8)
    images[labels == 1, :, :, 0] += 100
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    task = ImageTask(
        data=f"npz:{tmp_path}/images.npz", model="horses", augment="affine", epochs=8, batch_size=8
    )
    optimizers = (Optimizer("rmsprop", lr=0.0003),)
    results = run(Study(tasks=(task,), optimizers=optimizers, seeds=1), tmp_path / "out")
    for one in results.runs:
        assert one.epochs[-1].train_loss < 0.8 * one.epochs[0].train_loss
        assert one.test_score == 1

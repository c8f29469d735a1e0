"""Classification of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional as F

from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import Images
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import read_dataset, reads_image_files, split_dataset
from zeromean.study.data.split import SplitSpec
from zeromean.study.networks.build import maker
from zeromean.study.spec.metric import ACCURACY
from zeromean.study.spec.task import ImageTask
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.augment import AUGMENTATIONS, BORDERS, Augment, Augmentation, center
from zeromean.study.tasks.preprocessing import Preprocessing, channel_moments, to_gray
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.subset import take_subset


def image_problem(task: ImageTask, device: torch.device) -> Problem:
    """Load an image task; images stay bytes, and each batch is preprocessed when it is used."""
    crop = None if AUGMENTATIONS[task.augment].cuts else task.crop
    data = read_dataset(
        task.data, ImageTransform(task.resize, crop, task.gray and reads_image_files(task.data))
    )

    def of_seed(seed: int | None) -> Problem:
        return _problem(task, device, split_dataset(data, SplitSpec(task.test_per_class, seed)))

    return of_seed(None) if task.split == "fixed" else replace(of_seed(0), of_seed=of_seed)


def _problem(task: ImageTask, device: torch.device, data: Dataset) -> Problem:
    augmentation = AUGMENTATIONS[task.augment]
    if task.gray and not reads_image_files(task.data):
        data = _made_gray(data)
    preprocessing = Preprocessing.of(task.preprocess, data.train_images)
    side = _side(task, data)
    test = Examples(data.test_images, data.test_labels).to(device)
    whole = preprocessing.before_augmentation  # then borders are of preprocessed images
    if whole and task.border == "black":
        raise SettingError(
            "border",
            f'preprocess "{task.preprocess}" comes before augmentation, and then no color is black',
            'Use border = "mean" or "reflect"',
        )
    return Problem(
        device=device,
        train=take_subset(Examples(data.train_images, data.train_labels), task).to(device),
        watched=test,
        test=test,
        fit=preprocessing.fit,
        fit_augment=_augment(augmentation, side, task.border, whole),
        augment_preprocessed=whole or augmentation.cuts,
        view=partial(center, side=side) if augmentation.cuts else None,
        loss=F.cross_entropy,
        metric=ACCURACY,
        make=partial(maker(task.model), data.channels, side, len(data.classes)),
        description=data.describe(),
        split=data.split,
        preprocessing=("converted to gray; " if task.gray else "")
        + f"{preprocessing.note}; {augmentation.note}"
        + (BORDERS[task.border] if task.augment == "crop-flip" else "")
        + (f"; the center {side}x{side} pixels are scored" if side < data.side else ""),
    )


def _augment(
    augmentation: Augmentation, side: int, border: str, whole: bool
) -> Callable[[Images], Augment] | None:
    make = augmentation.fit
    if make is None:
        return None

    def fit(images: Images) -> Augment:
        color = torch.zeros(1, 1, 1)  # black, and the mean of whitened images
        if border == "mean" and not whole and not augmentation.cuts:
            color = channel_moments(images)[0].round()
        return make(side, None if border == "reflect" else color)

    return fit


def _side(task: ImageTask, data: Dataset) -> int:
    """Return height and width in pixels that networks see."""
    side = task.crop or data.side
    if side > data.side:
        raise SettingError(
            "crop",
            f"crop {side} is larger than the images of {data.name}, {data.side}x{data.side}",
            "Lower or remove crop",
            instead="Pass larger images",
        )
    return side


def _made_gray(data: Dataset) -> Dataset:
    if data.channels == 1:
        raise SettingError(
            "gray",
            f"the images of {data.name} are gray already",
            "Remove gray",
            instead="Pass color images",
        )
    return replace(
        data, train_images=to_gray(data.train_images), test_images=to_gray(data.test_images)
    )

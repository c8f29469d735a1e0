"""Classification of images."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch.nn import functional as F

from zeromean.study.data.dataset import Dataset
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import read_dataset, reads_image_files, split_dataset
from zeromean.study.data.split import SplitSpec
from zeromean.study.metric import ACCURACY
from zeromean.study.networks.build import maker
from zeromean.study.problem import Examples, Problem
from zeromean.study.settings import SettingError
from zeromean.study.task import Task
from zeromean.study.tasks.augment import AUGMENTATIONS, middle
from zeromean.study.tasks.parts import cut
from zeromean.study.tasks.preparation import Preparation, gray

# Splits that are kept, at about as many as are in use at once.
SPLITS = 8


def image_problem(task: Task, device: torch.device) -> Problem:
    """The images stay bytes, in memory or in a file; a batch is prepared when it is used."""
    crop = None if AUGMENTATIONS[task.augment].cuts else task.crop
    data = read_dataset(
        task.data, ImageTransform(task.resize, crop, task.gray and reads_image_files(task.data))
    )
    if task.split == "fixed":
        return _problem(task, device, split_dataset(data, SplitSpec(task.test_per_class)))

    @lru_cache(maxsize=SPLITS)
    def of_seed(seed: int) -> Problem:
        return _problem(task, device, split_dataset(data, SplitSpec(task.test_per_class, seed)))

    return replace(of_seed(0), of_seed=of_seed)


def _problem(task: Task, device: torch.device, data: Dataset) -> Problem:
    augmentation = AUGMENTATIONS[task.augment]
    if task.gray and not reads_image_files(task.data):
        data = _made_gray(data)
    preparation = Preparation.of(task.prepare, data.train_images)
    side = _side(task, data)
    test = Examples(data.test_images, data.test_labels).to(device)
    return Problem(
        device=device,
        train=cut(Examples(data.train_images, data.train_labels), task).to(device),
        watched=test,
        test=test,
        fit=preparation.fit,
        augment=None if augmentation.change is None else augmentation.change(side),
        # What was fitted to whole images is done to whole images.
        augment_prepared=preparation.before_augmentation or augmentation.cuts,
        view=partial(middle, side=side) if augmentation.cuts else None,
        loss=F.cross_entropy,
        metric=ACCURACY,
        make=partial(maker(task.model), data.channels, side, len(data.classes)),
        description=data.describe(),
        split=data.split,
        preparation=("made gray; " if task.gray else "")
        + f"{preparation.note}; {augmentation.note}"
        + (f"; the middle {side}x{side} pixels are scored" if side < data.side else ""),
    )


def _side(task: Task, data: Dataset) -> int:
    """Of what networks see, in pixels."""
    side = task.crop or data.side
    if side > data.side:
        raise SettingError(
            "crop",
            f"crop = {side} with {data.name}, whose images are {data.side}x{data.side}",
            "a crop within every image",
            "lower it or leave it out",
            "pass larger images",
        )
    return side


def _made_gray(data: Dataset) -> Dataset:
    if data.channels == 1:
        raise SettingError(
            "gray",
            f"gray with {data.name}, whose images are",
            "colored images",
            "leave gray out",
            "pass such data",
        )
    return replace(data, train_images=gray(data.train_images), test_images=gray(data.test_images))

"""Classification of images."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch.nn import functional as F

from zeromean.study.data.album import Size
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.load import divided, read
from zeromean.study.data.split import Division
from zeromean.study.metric import ACCURACY
from zeromean.study.networks.build import maker
from zeromean.study.problem import Examples, Problem
from zeromean.study.settings import SettingError
from zeromean.study.task import Task
from zeromean.study.tasks.augment import AUGMENTATIONS
from zeromean.study.tasks.parts import cut
from zeromean.study.tasks.preparation import Preparation, grey

# Splits that are kept, at about as many as are in use at once.
SPLITS = 8


def image_problem(task: Task, device: torch.device) -> Problem:
    """The images stay bytes in memory; a batch is prepared when it is used."""
    data = read(task.data, Size(task.resize, task.crop))
    if task.split == "fixed":
        return _problem(task, device, divided(data, Division(task.test_per_class)))

    @lru_cache(maxsize=SPLITS)
    def of_seed(seed: int) -> Problem:
        return _problem(task, device, divided(data, Division(task.test_per_class, seed)))

    return replace(of_seed(0), of_seed=of_seed)


def _problem(task: Task, device: torch.device, data: Dataset) -> Problem:
    augmentation = AUGMENTATIONS[task.augment]
    if task.grey:
        data = _made_grey(data)
    preparation = Preparation.of(task.prepare, data.train_images)
    test = Examples(data.test_images, data.test_labels).to(device)
    return Problem(
        device=device,
        train=cut(Examples(data.train_images, data.train_labels), task).to(device),
        watched=test,
        test=test,
        fit=preparation.fit,
        augment=augmentation.change,
        augment_prepared=preparation.before_augmentation,
        loss=F.cross_entropy,
        metric=ACCURACY,
        make=partial(maker(task.model), data.channels, data.side, len(data.classes)),
        description=data.describe(),
        split=data.split,
        preparation=("made grey; " if task.grey else "")
        + f"{preparation.note}; {augmentation.note}",
    )


def _made_grey(data: Dataset) -> Dataset:
    if data.channels == 1:
        raise SettingError(
            "grey",
            f"grey with {data.name}, whose images are",
            "coloured images",
            "leave grey out",
            "pass such data",
        )
    return replace(data, train_images=grey(data.train_images), test_images=grey(data.test_images))

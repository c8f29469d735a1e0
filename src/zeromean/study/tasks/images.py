"""Classification of images."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from zeromean.study.data.load import load
from zeromean.study.metric import ACCURACY
from zeromean.study.networks.build import maker
from zeromean.study.problem import Examples, Problem
from zeromean.study.study import Task
from zeromean.study.tasks.augment import AUGMENTATIONS
from zeromean.study.tasks.parts import cut


def image_problem(task: Task, device: torch.device) -> Problem:
    """The images stay bytes in memory; a batch is standardized when it is used.

    Each channel's mean and standard deviation come from the training images alone.
    """
    augmentation = AUGMENTATIONS[task.augment]
    data = load(task.data)
    train = cut(Examples(data.train_images, data.train_labels), task)
    mean, deviation = channel_moments(train.inputs)
    test = Examples(data.test_images, data.test_labels).to(device)
    return Problem(
        device=device,
        train=train.to(device),
        watched=test,
        test=test,
        prepare=partial(_standardize, mean=mean.to(device), deviation=deviation.to(device)),
        augment=augmentation.change,
        loss=F.cross_entropy,
        metric=ACCURACY,
        make=partial(maker(task.model), data.channels, data.side, len(data.classes)),
        description=data.describe(),
        split=data.split,
        preparation=f"each channel standardized by the training images; {augmentation.note}",
    )


def _standardize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return (images.float() - mean) / deviation


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel, shaped to broadcast over a batch."""
    values = torch.arange(256, dtype=torch.float64)
    # Counting bytes needs no float copy of all images.
    counts = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.transpose(0, 1)]
    ).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    deviation = (shares @ values.square() - mean.square()).clamp_min(0).sqrt()
    # A channel that is constant carries nothing; any divisor but zero will do.
    deviation = torch.where(deviation == 0, 1.0, deviation)
    return mean.float().view(-1, 1, 1), deviation.float().view(-1, 1, 1)

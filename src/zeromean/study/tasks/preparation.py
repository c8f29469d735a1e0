"""What networks see of stored images: fitted to the training images, then done to each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zeromean.study.data.disk_images import DiskImages, Images, split
from zeromean.study.settings import SettingError

Prepare = Callable[[Tensor], Tensor]
# Images that are looked at together, while something is fitted.
CHUNK = 1000
# Added to each variance before whitening divides by it, the usual one for CIFAR.
ZCA_RIDGE = 0.1


@dataclass(frozen=True)
class Preparation:
    """One way of preparing images.

    Args:
        note: What it does, for reports.
        fit: From the training images to what is done to a batch.
        before_augmentation: Whether it comes first, as what sees an image as a whole must.
        most: Numbers of an image that it can be fitted to.
    """

    note: str
    fit: Callable[[Images], Prepare]
    before_augmentation: bool = False
    most: float = math.inf

    @classmethod
    def of(cls, name: str, images: Images) -> Preparation:
        """The preparation of that name, for such images.

        Raises:
            ZeromeanError: The images are too large for it.
        """
        preparation, size = PREPARATIONS[name], math.prod(images.shape[1:])
        if size > preparation.most:
            raise SettingError(
                "prepare",
                f"prepare {name} for images of {size:,} numbers",
                f"{preparation.most:,} or fewer",
                "use another prepare",
                "pass smaller images",
            )
        return preparation


def gray(images: Images) -> Tensor:
    """One channel of bytes from three: luma of ITU-R 601, rounded as Pillow does.

    Args:
        images: Bytes of shape (N, 3, height, width).

    Example:
        >>> gray(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).item()
        76
    """
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)
    made = torch.empty(len(images), 1, *images.shape[2:], dtype=torch.uint8)
    for out, part in zip(torch.split(made, CHUNK), split(images, CHUNK), strict=True):
        out[:] = ((part * weights).sum(1, keepdim=True) + 2**15) >> 16
    return made


def channel_moments(images: Images) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel, shaped to broadcast over a batch."""
    totals, squares = (
        images.channel_sums() if isinstance(images, DiskImages) else _channel_sums(images)
    )
    count = len(images) * math.prod(images.shape[2:])
    mean, deviation = _moments(totals.double() / count, squares.double() / count)
    return mean.view(-1, 1, 1), deviation.view(-1, 1, 1)


def _channel_sums(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of the values of each channel, and of their squares: whole numbers, exact in any order."""
    values = torch.arange(256, device=images.device)
    # Counting bytes needs no wider copy of all images.
    counts = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.transpose(0, 1)]
    )
    return (counts * values).sum(1), (counts * values.square()).sum(1)


def pixel_moments(images: Images) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each pixel of each channel over the images."""
    total = torch.zeros(images.shape[1:], dtype=torch.int64, device=images.device)
    squares = total.clone()
    for part in split(images, CHUNK):  # whole numbers: exact in any order
        total += part.sum(0, dtype=torch.int64)
        squares += part.int().square().sum(0, dtype=torch.int64)
    return _moments(total.double() / len(images), squares.double() / len(images))


def _moments(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """As float32, from float64 means of values and of their squares."""
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    # What is constant carries nothing; any divisor but zero will do.
    return mean.float(), torch.where(deviation == 0, 1.0, deviation).float()


def _standardizing(
    moments: Callable[[Images], tuple[Tensor, Tensor]],
) -> Callable[[Images], Prepare]:
    def fit(images: Images) -> Prepare:
        mean, deviation = moments(images)
        return partial(standardize, mean=mean, deviation=deviation)

    return fit


def standardize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """The images as float32, less the mean, over the deviation."""
    return (images.float() - mean) / deviation


def contrast_normalized(images: Tensor) -> Tensor:
    """Each image less its own mean, over the deviation of all its numbers."""
    values = images.float()
    values = values - values.mean((1, 2, 3), keepdim=True)
    deviation = values.square().mean((1, 2, 3), keepdim=True).sqrt()
    return values / torch.where(deviation < 1e-8, 1.0, deviation)


def fit_whitening(images: Images) -> Prepare:
    r"""Global contrast normalization and ZCA whitening.

    .. math::
        \hat x = (x - \mu) V (\Lambda + \epsilon I)^{-1/2} V^T

    with the mean :math:`\mu` and the eigenvectors and eigenvalues of the covariance of the
    training images x, after each has lost its own mean and was divided by its own deviation.

    Reference:
        Goodfellow et al., Maxout Networks, ICML 2013, section 5.2.
    """
    size = math.prod(images.shape[1:])
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    products = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    with _one_thread():
        for part in split(images, CHUNK):
            values = contrast_normalized(part).flatten(1)
            total += values.double().sum(0)
            products += values.T @ values
        mean = total / len(images)
        variances, axes = torch.linalg.eigh(products / len(images) - torch.outer(mean, mean))
        matrix = (axes * (variances.clamp_min(0) + ZCA_RIDGE).rsqrt()) @ axes.T
    return partial(_whiten, mean=mean.float(), matrix=matrix.float())


def _whiten(images: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    return ((contrast_normalized(images).flatten(1) - mean) @ matrix).view(images.shape)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes of one study, and a study that goes on, must fit the same, bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


PREPARATIONS: dict[str, Preparation] = {
    "channel": Preparation(
        "each channel standardized by the training images", _standardizing(channel_moments)
    ),
    "pixel": Preparation(
        "each pixel standardized by the training images", _standardizing(pixel_moments)
    ),
    "zca": Preparation(
        "global contrast normalization, then ZCA whitening by the training images"
        f" ({ZCA_RIDGE:g} added to each variance)",
        fit_whitening,
        before_augmentation=True,
        most=64 * 64 * 3,  # a larger matrix takes many minutes to decompose
    ),
}

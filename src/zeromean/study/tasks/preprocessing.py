"""Preprocessing of images: fitted to the training images, then applied to each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zeromean.study.data.disk_images import DiskImages, Images, split
from zeromean.study.spec.validation import SettingError

Preprocess = Callable[[Tensor], Tensor]
# Largest numbers of images and of their values per step, which takes several times 4 bytes per
# value.
CHUNK = 1000
CHUNK_VALUES = CHUNK * 64 * 64 * 3
# The usual number for CIFAR, which is added to each variance before whitening divides by it.
ZCA_RIDGE = 0.1


@dataclass(frozen=True)
class Preprocessing:
    """One way of preprocessing images.

    Args:
        note: A few words for reports.
        fit: Function from the training images to the preprocessing of a batch.
        before_augmentation: Whether it comes before augmentation, because it needs whole images.
        max_size: Largest number of values per image that it can be fitted to.
    """

    note: str
    fit: Callable[[Images], Preprocess]
    before_augmentation: bool = False
    max_size: float = math.inf

    @classmethod
    def of(cls, name: str, images: Images) -> Preprocessing:
        """Return the preprocessing of a name for given images.

        Raises:
            ZeromeanError: The images are too large for it.
        """
        preprocessing, size = PREPROCESSINGS[name], math.prod(images.shape[1:])
        if size > preprocessing.max_size:
            raise SettingError(
                "preprocess",
                f'preprocess "{name}" takes images of at most {preprocessing.max_size:,} numbers,'
                f" but these have {size:,}",
                "Use another preprocess",
                instead="Pass smaller images",
            )
        return preprocessing


def to_gray(images: Images) -> Tensor:
    """Return one channel of bytes from three: luma of ITU-R 601, rounded as Pillow does.

    Args:
        images: Unsigned bytes of shape (N, 3, height, width).

    Example:
        >>> to_gray(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).item()
        76
    """
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)
    return torch.cat(
        [
            (((part * weights).sum(1, keepdim=True) + 2**15) >> 16).to(torch.uint8)
            for part in _chunks(images)
        ]
    )


def _chunks(images: Images) -> Iterable[Tensor]:
    return split(images, max(1, min(CHUNK, CHUNK_VALUES // math.prod(images.shape[1:]))))


def channel_moments(images: Images) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, shaped to broadcast over a batch."""
    totals, squares = (
        images.channel_sums() if isinstance(images, DiskImages) else _channel_sums(images)
    )
    count = len(images) * math.prod(images.shape[2:])
    mean, deviation = _moments(totals.double() / count, squares.double() / count)
    return mean.view(-1, 1, 1), deviation.view(-1, 1, 1)


def _channel_sums(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of each channel's values and squares: whole numbers, exact in any order."""
    values = torch.arange(256, device=images.device)
    # Counting bytes needs no wider copy of all images.
    counts = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.transpose(0, 1)]
    )
    return (counts * values).sum(1), (counts * values.square()).sum(1)


def pixel_moments(images: Images) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each pixel of each channel over the images."""
    total = torch.zeros(images.shape[1:], dtype=torch.int64, device=images.device)
    squares = total.clone()
    for part in _chunks(images):  # whole numbers: exact in any order
        total += part.sum(0, dtype=torch.int64)
        squares += part.int().square().sum(0, dtype=torch.int64)
    return _moments(total.double() / len(images), squares.double() / len(images))


def _moments(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation as float32, from float64 means of values and of squares."""
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    # A constant carries no information; any divisor but zero will do.
    return mean.float(), torch.where(deviation == 0, 1.0, deviation).float()


def _standardizing(
    moments: Callable[[Images], tuple[Tensor, Tensor]],
) -> Callable[[Images], Preprocess]:
    def fit(images: Images) -> Preprocess:
        mean, deviation = moments(images)
        return partial(standardize, mean=mean, deviation=deviation)

    return fit


def standardize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the images as float32, minus the mean, divided by the deviation."""
    return (images.float() - mean) / deviation


def contrast_normalized(images: Tensor) -> Tensor:
    """Return each image minus its own mean, divided by the deviation of all its numbers."""
    values = images.float()
    values = values - values.mean((1, 2, 3), keepdim=True)
    deviation = values.square().mean((1, 2, 3), keepdim=True).sqrt()
    # Rounding may separate a constant image from its mean; bytes that differ deviate by much more.
    return values / torch.where(deviation < 1e-3, 1.0, deviation)


def fit_whitening(images: Images) -> Preprocess:
    r"""Fit global contrast normalization and ZCA whitening.

    .. math::
        \hat x = (x - \mu) V (\Lambda + \epsilon I)^{-1/2} V^T

    with the mean :math:`\mu` and the eigenvectors and eigenvalues of the covariance of the
    contrast-normalized training images x.

    Reference:
        Goodfellow et al., Maxout Networks, ICML 2013, section 5.2.
    """
    size = math.prod(images.shape[1:])
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    products = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    with _one_thread():
        for part in _chunks(images):
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
    """Use one thread, so that the fit is the same bit for bit in every process of a study."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


PREPROCESSINGS: dict[str, Preprocessing] = {
    "channel": Preprocessing(
        "each channel standardized by the training images", _standardizing(channel_moments)
    ),
    "pixel": Preprocessing(
        "each pixel standardized by the training images", _standardizing(pixel_moments)
    ),
    "zca": Preprocessing(
        "global contrast normalization, then ZCA whitening by the training images"
        f" ({ZCA_RIDGE:g} added to each variance)",
        fit_whitening,
        before_augmentation=True,
        max_size=64 * 64 * 3,  # decomposing a larger matrix takes many minutes
    ),
}

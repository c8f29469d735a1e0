"""Random changes of a batch of images, on its device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = 4
# Attempts to place a random rectangle within the image.
TRIES = 10


@dataclass(frozen=True)
class CropFlip:
    """Shift each image by up to four pixels, and mirror it half the time.

    Args:
        color: Color of the pixels beyond the border, of shape (channels, 1, 1); None to reflect the
            image at its border.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> CropFlip(torch.zeros(1, 1, 1))(image, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 2, 2])
    """

    color: Tensor | None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, channels, height, width = images.shape
        device = images.device

        def draw(high: int) -> Tensor:
            return torch.randint(high, (count, 1), generator=generator, device=device)

        rows = draw(2 * PADDING + 1) + torch.arange(height, device=device)
        columns = torch.arange(width, device=device).expand(count, width)
        columns = torch.where(draw(2) == 1, width - 1 - columns, columns) + draw(2 * PADDING + 1)
        if self.color is None:
            rows, columns = _reflect(rows - PADDING, height), _reflect(columns - PADDING, width)
            padded = images
        else:
            size = (count, channels, height + 2 * PADDING, width + 2 * PADDING)
            padded = self.color.to(images).expand(size).contiguous()
            padded[..., PADDING:-PADDING, PADDING:-PADDING] = images
        image = torch.arange(count, device=device).view(-1, 1, 1)
        # Indexed axes come first: (count, height, width, channels).
        return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflect(indices: Tensor, size: int) -> Tensor:
    """Return indices within an axis, reflected at its first and last entry."""
    last = size - 1
    return (last - (last - indices.abs()).abs()).clamp(0, last)


@dataclass(frozen=True)
class Affine:
    """Rotate, shift, shear, zoom and mirror each image by random amounts.

    Each amount is drawn independently and uniformly between its bound and the negative of it. The
    defaults are those of the tutorial on horses and humans, in Keras' units.

    Args:
        rotation: Bound in degrees.
        shift: Bound as a share of width and of height.
        shear: Bound in degrees; the tutorial's 0.2 is hardly visible.
        zoom: Bound of the difference from 1 of the factors of width and height, which are drawn
            separately.
        flip: Whether half of the images are mirrored.

    Example:
        >>> images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
        >>> Affine()(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """

    rotation: float = 40.0
    shift: float = 0.2
    shear: float = 0.2
    zoom: float = 0.2
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def draw(bound: float) -> Tensor:
            uniform = torch.rand(len(images), generator=generator, device=images.device)
            return bound * (2 * uniform - 1)

        return warped(
            images,
            angle=draw(self.rotation).deg2rad(),
            shear=draw(self.shear).deg2rad(),
            shift=(draw(self.shift), draw(self.shift)),
            zoom=(1 + draw(self.zoom), 1 + draw(self.zoom)),
            mirrored=draw(1.0) < 0 if self.flip else None,
        )


def warped(
    images: Tensor,
    *,
    angle: Tensor,
    shear: Tensor,
    shift: tuple[Tensor, Tensor],
    zoom: tuple[Tensor, Tensor],
    mirrored: Tensor | None = None,
) -> Tensor:
    """Return images as floats, each pixel read where an affine map around the center sends it.

    The map is rotation x shift x shear x zoom after mirroring. Values between pixels are
    interpolated; points beyond the border have the values of the border.

    Args:
        images: Images of any type.
        angle, shear: Angles in radians, one per image.
        shift: Shifts to the right and down, as shares of width and height, one per image.
        zoom: Factors of width and height, one per image.
        mirrored: Whether left and right are exchanged, one per image; None for no image.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos(), angle.sin()
    (right, down), (wide, high) = shift, zoom
    if mirrored is not None:
        wide = torch.where(mirrored, -wide, wide)
    right, down = right * width, down * height
    # In rotation times shear, the shear rotates the second column alone. In torch's units an image
    # reaches from -1 to 1 along both axes.
    second = angle + shear
    along_x = (
        cos * wide, -second.sin() * high * height / width, 2 / width * (cos * right - sin * down)
    )  # fmt: skip
    along_y = (
        sin * wide * width / height, second.cos() * high, 2 / height * (sin * right + cos * down)
    )  # fmt: skip
    maps = torch.stack([torch.stack(along_x, 1), torch.stack(along_y, 1)], 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class ResizedCrop:
    """Scale a random rectangle of each image to a square, and mirror it half the time.

    The area is drawn uniformly, and the aspect ratio log-uniformly, so that a:b is as likely as
    b:a. Both are drawn up to ten times, until the rectangle fits into the image; if none fits, the
    whole image is used. The rectangle's position is uniform.

    Args:
        side: Height and width of the square in pixels.
        area: Bounds of the rectangle's area, as shares of the image's.
        aspect_ratio: Bounds of its width over its height.

    Example:
        >>> images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> ResizedCrop(14)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 14, 14])

    Reference:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6; the ten attempts
        are those of the public code of residual networks and of torchvision.
    """

    side: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape

        def draw(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=images.device)

        wide, high = self._sizes(draw(TRIES), draw(TRIES), width, height)
        return resampled(
            images,
            # A draw is below 1 by more than a rounding error, so floor never gives one pixel more.
            left=(draw() * (width - wide + 1)).floor(),
            top=(draw() * (height - high + 1)).floor(),
            wide=wide,
            high=high,
            mirrored=draw() < 0.5,
            side=self.side,
        )

    def _sizes(
        self, area: Tensor, aspect_ratio: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        """Return width and height of each image's rectangle, from one row of draws per image."""
        (least, most), (low, up) = self.area, map(math.log, self.aspect_ratio)
        areas = (least + (most - least) * area) * (width * height)
        ratios = (low + (up - low) * aspect_ratio).exp()
        wide, high = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
        fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
        first = fits.int().argmax(1, keepdim=True)
        within = fits.any(1)
        return (
            torch.where(within, wide.gather(1, first)[:, 0], float(width)),
            torch.where(within, high.gather(1, first)[:, 0], float(height)),
        )


def resampled(
    images: Tensor,
    *,
    left: Tensor,
    top: Tensor,
    wide: Tensor,
    high: Tensor,
    mirrored: Tensor,
    side: int,
) -> Tensor:
    """Return a rectangle of each image as a square of floats, interpolated within the rectangle.

    Args:
        images: Images of shape (N, channels, height, width) and any type.
        left, top: First column and row of the rectangle, one per image.
        wide, high: Width and height of the rectangle in pixels, one per image.
        mirrored: Whether left and right are exchanged, one per image.
        side: Height and width of the square in pixels.
    """
    height, width = images.shape[-2:]
    centers = (torch.arange(side, device=images.device) + 0.5) / side

    def along(centers: Tensor, start: Tensor, length: Tensor, whole: int) -> Tensor:
        """Return coordinates in torch's units, in which an image reaches from -1 to 1."""
        start, length = start[:, None], length[:, None]
        pixels = (centers * length - 0.5).clamp_min(0).minimum(length - 1) + start
        return (2 * pixels + 1) / whole - 1

    columns = torch.where(mirrored[:, None], centers.flip(0), centers)
    x = along(columns, left, wide, width)[:, None, :].expand(-1, side, -1)
    y = along(centers, top, high, height)[:, :, None].expand(-1, -1, side)
    grid = torch.stack([x, y], 3)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def center(images: Tensor, side: int) -> Tensor:
    """Return the central square of images, with the given side in pixels."""
    height, width = images.shape[-2:]
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


Augment = Callable[[Tensor, torch.Generator], Tensor]


class Augmentation(NamedTuple):
    """A random change of training images.

    Args:
        fit: Function that takes the side in pixels that networks see and the color of the border,
            and returns the change of a batch; None for no change.
        note: Description of the change in reports.
        cuts: Whether the change crops larger images to that side, so that networks are scored on
            the center of test images.
    """

    fit: Callable[[int, Tensor | None], Augment] | None
    note: str
    cuts: bool = False


AUGMENTATIONS = {
    "none": Augmentation(None, "no augmentation"),
    "crop-flip": Augmentation(
        lambda side, color: CropFlip(color), "shifted by up to 4 pixels and mirrored at random"
    ),
    "affine": Augmentation(
        lambda side, color: Affine(),
        "rotated by up to 40 degrees, shifted by up to a fifth, zoomed by up to a fifth and"
        " mirrored at random",
    ),
    "resized-crop-flip": Augmentation(
        lambda side, color: ResizedCrop(side),
        "random crops of 8 to 100% of the area, scaled to one size, and mirrored at random",
        cuts=True,
    ),
}
BORDERS = {
    "mean": "; the border has the mean color of the training images",
    "black": "; the border is black",
    "reflect": "; the border reflects the image",
}

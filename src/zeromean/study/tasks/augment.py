"""Random changes of a batch of images, on the device that holds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = 4
# Of a random rectangle, to lie within the image.
TRIES = 10


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to four pixels over a black border, and mirrored half the time."""
    count, _, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=images.device)

    rows = draw(2 * PADDING + 1) + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = torch.where(draw(2) == 1, width - 1 - columns, columns) + draw(2 * PADDING + 1)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    # Indexed axes come first: (count, height, width, channels).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Affine:
    """Each image turned, shifted, sheared, zoomed and mirrored, by amounts drawn anew.

    All amounts are uniform between the bound and its negative, and independent. The defaults are
    those of the tutorial on horses and humans, with the meaning that Keras gives them.

    Args:
        rotation: Bound in degrees.
        shift: Bound as a share of width and of height.
        shear: Bound in degrees, so that the tutorial's 0.2 is next to nothing.
        zoom: Bound around 1 of the factors by which width and height shrink, each on its own.
        flip: Whether every second image, on average, is mirrored.

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
    """Images as floats, each pixel from where an affine map around the center sends it.

    The map is rotation x shift x shear x zoom, and a mirror before it all; values between pixels
    are interpolated, those beyond the border are the border's.

    Args:
        images: Of any type.
        angle, shear: One an image, in radians.
        shift: To the right and down, as shares of width and height, one an image.
        zoom: Factors of width and height, one an image.
        mirrored: Whether left and right change places, one an image; None for none.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos(), angle.sin()
    (right, down), (wide, high) = shift, zoom
    if mirrored is not None:
        wide = torch.where(mirrored, -wide, wide)
    right, down = right * width, down * height
    # Rotation times shear is a matrix whose second column alone is turned further. In torch's
    # units an image reaches from -1 to 1 both ways.
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
    """A rectangle of each image, scaled to a square, and mirrored half the time.

    Area and proportions are drawn up to ten times, until the rectangle lies within the image:
    the area uniformly, the proportions so that a:b is as likely as b:a; then its place,
    uniformly. After ten misses all of the image is taken.

    Args:
        side: Of the square, in pixels.
        area: Bounds of the rectangle's area, as a share of the image's.
        proportions: Bounds of its width over its height.

    Example:
        >>> images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> ResizedCrop(14)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 14, 14])

    Reference:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6; ten tries, and then
        the whole, are those of the public code of residual networks and of torchvision.
    """

    side: int
    area: tuple[float, float] = (0.08, 1.0)
    proportions: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape

        def draw(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=images.device)

        wide, high = self._sizes(draw(TRIES), draw(TRIES), width, height)
        return resampled(
            images,
            # A draw is below 1 by no less than a rounding, so floor never gives one pixel more.
            left=(draw() * (width - wide + 1)).floor(),
            top=(draw() * (height - high + 1)).floor(),
            wide=wide,
            high=high,
            mirrored=draw() < 0.5,
            side=self.side,
        )

    def _sizes(
        self, area: Tensor, proportions: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        """Width and height of each image's rectangle, from a row of draws each."""
        (least, most), (tall, flat) = self.area, map(math.log, self.proportions)
        areas = (least + (most - least) * area) * (width * height)
        ratios = (tall + (flat - tall) * proportions).exp()
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
    """A rectangle of each image as a square of floats, interpolated between its own pixels.

    Args:
        images: Of shape (N, channels, height, width) and any type.
        left, top: The rectangle's first column and row, one an image.
        wide, high: Its width and height in pixels, one an image.
        mirrored: Whether left and right change places, one an image.
        side: Of the square, in pixels.
    """
    height, width = images.shape[-2:]
    centers = (torch.arange(side, device=images.device) + 0.5) / side

    def along(centers: Tensor, start: Tensor, length: Tensor, whole: int) -> Tensor:
        """Coordinates in torch's units: an image reaches from -1 to 1 both ways."""
        start, length = start[:, None], length[:, None]
        pixels = (centers * length - 0.5).clamp_min(0).minimum(length - 1) + start
        return (2 * pixels + 1) / whole - 1

    columns = torch.where(mirrored[:, None], centers.flip(0), centers)
    x = along(columns, left, wide, width)[:, None, :].expand(-1, side, -1)
    y = along(centers, top, high, height)[:, :, None].expand(-1, -1, side)
    grid = torch.stack([x, y], 3)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def middle(images: Tensor, side: int) -> Tensor:
    """The middle square of images, of that height and width."""
    height, width = images.shape[-2:]
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


Change = Callable[[Tensor, torch.Generator], Tensor]


class Augmentation(NamedTuple):
    """A way to change training images.

    Args:
        change: From the side that networks see to what makes of a batch and a source of
            randomness what is trained on; None for none.
        note: In a few words, for reports.
        cuts: Whether it cuts that side out of larger images itself; then their middle is scored.
    """

    change: Callable[[int], Change] | None
    note: str
    cuts: bool = False


AUGMENTATIONS = {
    "none": Augmentation(None, "no augmentation"),
    "crop-flip": Augmentation(
        lambda side: crop_flip, "shifted by up to 4 pixels and mirrored at random"
    ),
    "affine": Augmentation(
        lambda side: Affine(),
        "turned by up to 40 degrees, shifted by up to a fifth, zoomed by up to a fifth and mirrored"
        " at random",
    ),
    "resized-crop-flip": Augmentation(
        ResizedCrop,
        "random crops of 8 to 100% of the area, scaled to one size, and mirrored at random",
        cuts=True,
    ),
}

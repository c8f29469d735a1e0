"""Random changes of a batch of images, on the device that holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = 4


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


class Augmentation(NamedTuple):
    """A way to change training images.

    Args:
        change: From a batch and a source of randomness to what is trained on; None for none.
        note: In a few words, for reports.
    """

    change: Callable[[Tensor, torch.Generator], Tensor] | None
    note: str


AUGMENTATIONS = {
    "none": Augmentation(None, "no augmentation"),
    "crop-flip": Augmentation(crop_flip, "shifted by up to 4 pixels and mirrored at random"),
    "affine": Augmentation(
        Affine(),
        "turned by up to 40 degrees, shifted by up to a fifth, zoomed by up to a fifth and mirrored"
        " at random",
    ),
}

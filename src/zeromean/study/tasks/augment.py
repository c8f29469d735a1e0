"""Random changes of a batch of images, on the device that holds it."""

from __future__ import annotations

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

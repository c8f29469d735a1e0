"""The smallest images that a network can take."""

from __future__ import annotations

from zeromean.study.spec.validation import SettingError


def check_size(model: str, side: int, least: int) -> None:
    """Raise if images are so small that the network's layers would leave nothing of them.

    Args:
        model: Name of the network.
        side: Height and width of the images in pixels.
        least: The smallest height and width that it can take.

    Raises:
        ZeromeanError: The images are smaller.
    """
    if side < least:
        raise SettingError(
            "model",
            f'model "{model}" needs images of at least {least}x{least} pixels, but these are'
            f" {side}x{side}",
            "Use the model mlp",
            instead="Pass larger images",
        )

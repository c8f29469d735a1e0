"""Which images a network can take."""

from __future__ import annotations

from zeromean.study.settings import SettingError


def refuse_smaller(model: str, side: int, least: int) -> None:
    """Refuses images of which the network's layers would leave nothing.

    Args:
        model: Name of the network.
        side: Height and width of the images in pixels.
        least: That it can take.

    Raises:
        ZeromeanError: They are smaller.
    """
    if side < least:
        raise SettingError(
            "model",
            f"model {model!r} on images of {side}x{side} pixels",
            f"{least}x{least} or more",
            "use the model mlp",
            "pass larger images",
        )

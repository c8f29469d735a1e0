"""Which images a network can take."""

from __future__ import annotations

from zeromean.errors import ZeromeanError


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
        raise ZeromeanError(
            f"model {model!r} on images of {side}x{side} pixels",
            f"{least}x{least} or more",
            "use --model mlp",
        )

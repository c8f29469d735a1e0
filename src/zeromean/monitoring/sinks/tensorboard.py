"""TensorBoard: a ``SummaryWriter``, torch's or any with its ``add_scalar``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zeromean.monitoring.sample import Sample


def accepts(to: Any) -> bool:
    """Whether this writes scalars."""
    return callable(getattr(to, "add_scalar", None))


def sink(to: Any) -> Callable[[Sample], None]:
    """What writes a scalar a layer and quantity."""

    def write(sample: Sample) -> None:
        for name, value in sample.scalars().items():
            to.add_scalar(name, value, sample.step)

    return write

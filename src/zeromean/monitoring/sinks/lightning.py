"""Lightning's loggers: anything with their ``log_metrics``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zeromean.monitoring.sample import Sample


def accepts(to: Any) -> bool:
    """Whether this logs metrics."""
    return callable(getattr(to, "log_metrics", None))


def sink(to: Any) -> Callable[[Sample], None]:
    """What logs a sample as one set of metrics."""

    def write(sample: Sample) -> None:
        to.log_metrics(sample.scalars(), step=sample.step)

    return write

"""A Hugging Face ``Trainer``, which tells its loggers and counts steps itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zeromean.class_lookup import is_a
from zeromean.monitoring.sample import Sample


def accepts(to: Any) -> bool:
    """Whether this is a Trainer."""
    return is_a(type(to), "transformers.trainer.Trainer")


def sink(to: Any) -> Callable[[Sample], None]:
    """What logs a sample through the trainer."""

    def write(sample: Sample) -> None:
        to.log(sample.scalars())

    return write

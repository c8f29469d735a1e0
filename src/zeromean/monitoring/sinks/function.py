"""Any function of a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zeromean.monitoring.sample import Sample


def accepts(to: Any) -> bool:
    """Whether this can be called."""
    return callable(to)


def sink(to: Any) -> Callable[[Sample], None]:
    """The function itself."""
    function: Callable[[Sample], None] = to
    return function

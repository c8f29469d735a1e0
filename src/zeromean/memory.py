"""Errors for a lack of memory, which torch raises in several forms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zeromean.errors import ZeromeanError


@contextmanager
def enough_memory(instead: ZeromeanError) -> Iterator[None]:
    """Raise another error in place of torch's and Python's errors for a lack of memory.

    Args:
        instead: The error to raise.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has no class for a lack of CPU memory.
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if known or "DefaultCPUAllocator" in str(error):
            raise instead from error
        raise

"""Keep the random number generators of torch, NumPy and Python."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Restore the global random number generators after the block.

    Args:
        model: Model whose devices have generators of their own.
    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    numpy_random = sys.modules.get("numpy.random")  # torch does not need NumPy
    python, numpy = random.getstate(), numpy_random and numpy_random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy_random is not None:
                numpy_random.set_state(numpy)

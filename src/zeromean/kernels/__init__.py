"""Kernels that center many tensors at once, or make whole centered optimizer steps.

Four functions cover all uses. ``center_`` centers many tensors once. ``prepare_center`` sets up
centering in place at every step. ``prepare_mean_keeper`` sets up restoring the means of weights
after another optimizer's steps. ``prepare`` sets up whole steps that center in the same pass. Three
interchangeable backends carry them out:

- ``native``: a small C library for float32, float64 and bfloat16 on the CPU. It reads each weight
  vector from memory once, and centers and updates it while it is in cache.
- ``triton``: programs for CUDA devices that process all tensors in one launch. They read short
  weight vectors from memory once.
- ``reference``: plain torch for every device, type and layout, easy to read. It serves everything
  that the others do not.

The environment variable ``ZEROMEAN_KERNELS`` forces one of them.
"""

from __future__ import annotations

from zeromean.kernels.backends import (
    backend,
    center_,
    prepare,
    prepare_center,
    prepare_mean_keeper,
)
from zeromean.kernels.step_spec import AdamRule, Entry, SGDRule

__all__ = [
    "AdamRule",
    "Entry",
    "SGDRule",
    "backend",
    "center_",
    "prepare",
    "prepare_center",
    "prepare_mean_keeper",
]

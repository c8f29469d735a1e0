"""Centering many tensors at once, and whole centered optimizer steps, as fast as memory allows.

Behind one interface: ``center_`` takes the mean of every weight vector of many tensors away, once;
``prepare_center`` makes ready to do it in place at every step, ``prepare_mean_keeper`` to put the
means of weights back after every step of someone else, ``prepare`` to make whole steps that center
on the way. Interchangeable backends carry them out:

- ``native``: a small C library for float32, float64 and bfloat16 on the CPU. Each weight vector is
  read from memory once: its mean is taken, and it is updated, while it is in cache.
- ``triton``: programs for CUDA devices, all tensors in one launch. Short weight vectors are read
  from memory once.
- ``reference``: plain torch, for every device, type and layout, written to be read. Everything that
  the others do not serve comes here.

The environment variable ``ZEROMEAN_KERNELS`` forces one of them.
"""

from __future__ import annotations

from zeromean.kernels.backends import backend as backend
from zeromean.kernels.backends import center_ as center_
from zeromean.kernels.backends import prepare as prepare
from zeromean.kernels.backends import prepare_center as prepare_center
from zeromean.kernels.backends import prepare_mean_keeper as prepare_mean_keeper
from zeromean.kernels.step_spec import AdamRule as AdamRule
from zeromean.kernels.step_spec import Entry as Entry
from zeromean.kernels.step_spec import SGDRule as SGDRule

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

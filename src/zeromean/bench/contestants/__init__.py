"""The contestants: ways to make the same optimizer step, one family a file."""

from __future__ import annotations

from zeromean.bench.contestants.contestant import Contestant
from zeromean.bench.contestants.optax_jitted import OPTAX
from zeromean.bench.contestants.published import PUBLISHED
from zeromean.bench.contestants.pytorch_optimizers import PYTORCH_OPTIMIZER
from zeromean.bench.contestants.torchs_own import TORCH
from zeromean.bench.contestants.zeromeans_own import ZEROMEAN

# The first that runs on the device is what all others are compared with.
CONTESTANTS: tuple[Contestant, ...] = (*TORCH, *ZEROMEAN, PUBLISHED, *PYTORCH_OPTIMIZER, *OPTAX)

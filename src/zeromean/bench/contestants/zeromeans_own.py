"""zeromean's two ways: drop-in optimizers, and hooks on torch's fused ones."""

from __future__ import annotations

import warnings
from typing import get_args

from torch import nn
from torch.optim import Optimizer

from zeromean import optim
from zeromean.bench.contestants.contestant import Make, of_optimizer
from zeromean.bench.contestants.torchs_own import torchs
from zeromean.bench.work import Hyper
from zeromean.centralization.centralize import centralize
from zeromean.errors import ZeromeanWarning
from zeromean.kernels.step_spec import At


def drop_in(at: At) -> Make:
    """Makes the optimizer of ``zeromean.optim``."""

    def make(hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None) -> Optimizer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeromeanWarning)  # tensors without a model, on purpose
            made: Optimizer = getattr(optim, hyper.name)(
                parameters, **hyper.options, model=model, at=at
            )
        return made

    return make


def hooked(at: At) -> Make:
    """Makes torch's fused optimizer and centralizes it."""

    def make(hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None) -> Optimizer:
        optimizer = torchs("fused")(hyper, parameters, model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeromeanWarning)
            centralize(optimizer, model, at=at)
        return optimizer

    return make


ZEROMEAN = (
    *(of_optimizer(f"zeromean.optim, at {at}", at, drop_in(at)) for at in get_args(At)),
    *(of_optimizer(f"centralize(torch fused), at {at}", at, hooked(at)) for at in get_args(At)),
)

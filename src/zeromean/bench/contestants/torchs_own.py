"""torch's optimizers without centering, in each of their implementations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from zeromean.bench.contestants.contestant import Absent, Make, of_optimizer
from zeromean.bench.work import Hyper


def torchs(implementation: Literal["fused", "foreach", "for-loop"]) -> Make:
    """Makes torch's optimizer, stepping this way."""

    def make(hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None) -> Optimizer:
        flags = {"foreach": implementation == "foreach", "fused": implementation == "fused"}
        try:
            optimizer = getattr(torch.optim, hyper.name)(parameters, **hyper.options, **flags)
        except RuntimeError as error:  # torch refuses what the device does not have
            raise Absent(f"torch has none on {parameters[0].device.type}") from error
        return optimizer  # type: ignore[no-any-return]

    return make


TORCH = tuple(
    of_optimizer(f"torch {implementation}", None, torchs(implementation))
    for implementation in ("fused", "foreach", "for-loop")
)

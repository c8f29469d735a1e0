"""The work that all contestants do alike: tensors, gradients and hyper-parameters of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeromean.bench.tensors import Shapes


@dataclass(frozen=True)
class Hyper:
    """One optimizer with all its hyper-parameters settled.

    Args:
        name: torch's class, and zeromean's.
        options: Its arguments, in torch's names.
        bytes_moved: Bytes that one step must read and write for each float32 parameter: weight,
            gradient and state in, weight and state out.
    """

    name: str
    options: Mapping[str, Any]
    bytes_moved: int


OPTIMIZERS: dict[str, Hyper] = {
    "sgd": Hyper("SGD", {"lr": 1e-3, "momentum": 0.9}, bytes_moved=4 * 5),
    "adamw": Hyper(
        "AdamW",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
        bytes_moved=4 * 7,
    ),
}


@dataclass(frozen=True)
class Work:
    """One step to make: the same numbers whenever they are asked for.

    Args:
        hyper: The optimizer.
        shapes: Of the weights.
        device: Where they are.
        dtype: Of weights and gradients (default float32).
    """

    hyper: Hyper
    shapes: Shapes
    device: torch.device
    dtype: torch.dtype = torch.float32

    def weights(self) -> list[Tensor]:
        return self._draw(seed=0)

    def gradients(self) -> list[Tensor]:
        return self._draw(seed=1)

    def _draw(self, seed: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(seed)
        return [
            torch.randn(shape, generator=random).mul_(0.01).to(self.device, self.dtype)
            for shape in self.shapes
        ]

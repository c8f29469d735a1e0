"""Reference trajectories of the published optimizers, in float64.

For case i and parameter j the files hold ``i/w0/j`` (start), ``i/grads/j`` (steps first) and
``i/weights/j`` (after each step).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    name: str
    optimizer: str
    hyper: dict[str, Any]
    start: list[Tensor]
    gradients: list[Tensor]
    weights: list[Tensor]

    def __str__(self) -> str:
        return f"{self.name}-{self.optimizer}"

    def walk(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Step along the gradients; the weights of every step must agree to 1e-12 relative."""
        for step in range(len(self.gradients[0])):
            for parameter, gradients in zip(parameters, self.gradients, strict=True):
                parameter.grad = gradients[step].clone()
            optimizer.step()
            for parameter, weights in zip(parameters, self.weights, strict=True):
                error = (parameter.detach() - weights[step]).abs().max()
                assert error <= 1e-12 * weights[step].abs().max()


def load(file: str) -> list[Case]:
    with np.load(FOLDER / f"{file}.npz") as arrays:
        return [
            Case(
                f"{file}-{case['case']}",
                case["optimizer"],
                case["hyper"],
                *(
                    [
                        torch.from_numpy(arrays[f"{case['case']}/{kind}/{j}"])
                        for j in range(len(case["shapes"]))
                    ]
                    for kind in ("w0", "grads", "weights")
                ),
            )
            for case in json.loads(str(arrays["meta"]))
        ]


CASES = load("gc_optimizers") + load("gc_advanced")

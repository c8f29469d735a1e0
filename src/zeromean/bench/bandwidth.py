"""Memory bandwidth of a centered step, relative to a plain copy on the same machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from zeromean.bench.baselines import Baseline, Work
from zeromean.bench.paired_timing import Step, Times

COPY_BYTES = 8  # a copied float32 is read once and written once


@dataclass(frozen=True)
class Bandwidth:
    """The times of a step and of a copy of as many float32 numbers as the step has parameters.

    Args:
        parameters: Number of parameters.
        bytes_per_parameter: Bytes that the step must read and write per parameter.
        times: Times of "copy" and "step".
    """

    parameters: int
    bytes_per_parameter: int
    times: Times

    @property
    def of_step(self) -> float:
        """The bytes that the step reads and writes per second."""
        return self.bytes_per_parameter * self.parameters / self.times.median("step")

    @property
    def share(self) -> float:
        """The bandwidth of the step relative to that of the copy, as the median over the rounds."""
        return self.bytes_per_parameter / COPY_BYTES / self.times.ratio("step", "copy")


def measure(baseline: Baseline, work: Work, timer: Callable[[dict[str, Step]], Times]) -> Bandwidth:
    """Measure the bandwidth of a baseline's step.

    Args:
        baseline: Baseline to measure.
        work: Tensors and hyperparameters of the step.
        timer: Function that times steps in turn, given by name.
    """
    running = baseline.start(work)
    count = sum(weight.numel() for weight in running.weights())
    source = torch.ones(count, device=work.device)
    target = torch.empty_like(source)
    times = timer({"copy": lambda: target.copy_(source), "step": running.step})
    return Bandwidth(count, work.hyper.bytes_per_parameter, times)

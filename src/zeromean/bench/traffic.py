"""Memory traffic of a centered step, against what a plain copy reaches on the same machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zeromean.bench.contestants.contestant import Contestant
from zeromean.bench.timing import Duel, duel
from zeromean.bench.work import Work

COPY_BYTES = 8  # a float32 copied is read once and written once


@dataclass(frozen=True)
class Traffic:
    """What one step and one copy of as many numbers as it has parameters took.

    Args:
        parameters: How many numbers.
        bytes_moved: That the step must move for each.
        times: Of the copy, and of the step.
    """

    parameters: int
    bytes_moved: int
    times: Duel

    @property
    def step_rate(self) -> float:
        """Bytes a second of the step."""
        return self.bytes_moved * self.parameters / self.times.seconds

    @property
    def share(self) -> float:
        """The step's rate by the copy's, the median over the rounds."""
        return self.bytes_moved / COPY_BYTES / self.times.ratio

    @property
    def copy_rate(self) -> float:
        """Bytes a second of the copy in the same rounds."""
        return self.step_rate / self.share


def measure(contestant: Contestant, work: Work, repeats: int) -> Traffic:
    """Time a contestant's step and a copy in turn."""
    running = contestant.start(work)
    count = sum(weight.numel() for weight in running.weights())
    source = torch.ones(count, device=work.device)
    target = torch.empty_like(source)
    times = duel(lambda: target.copy_(source), running.step, repeats, work.device)
    return Traffic(count, work.hyper.bytes_moved, times)

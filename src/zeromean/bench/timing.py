"""Interleaved timing: two steps take turns, and the median of their paired ratios is kept."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

WARM_UP = 3  # steps before any is timed: states are made, programs compiled, caches filled
SHORTEST = 0.005  # seconds; what is quicker is repeated until a clock can tell


@dataclass(frozen=True)
class Duel:
    """What two steps took, round by round.

    Args:
        base: Seconds of the first.
        other: Seconds of the second, in the same rounds.
    """

    base: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Median of the second."""
        return statistics.median(self.other)

    @property
    def ratio(self) -> float:
        """Median over the rounds of the second's time by the first's."""
        return statistics.median(self._ratios())

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which the middle half of the ratios lies: how noisy the machine was."""
        ratios = self._ratios()
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def _ratios(self) -> list[float]:
        return [b / a for a, b in zip(self.base, self.other, strict=True)]


def duel(
    base: Callable[[], object], other: Callable[[], object], repeats: int, device: torch.device
) -> Duel:
    """Time two steps in turn, so that a slow moment of a shared machine meets both.

    Who begins alternates from round to round.

    Args:
        base, other: The steps.
        repeats: How many rounds.
        device: Is waited for before and after each.

    Example:
        >>> import torch
        >>> result = duel(lambda: sum(range(9)), lambda: None, 3, torch.device("cpu"))
        >>> len(result.base), result.ratio > 0
        (3, True)
    """
    calls = [_calls(step, device) for step in (base, other)]
    rounds = []
    for number in range(repeats):
        times = [0.0, 0.0]
        for turn in (0, 1) if number % 2 == 0 else (1, 0):
            times[turn] = _time((base, other)[turn], calls[turn], device)
        rounds.append(times)
    return Duel(tuple(one for one, _ in rounds), tuple(two for _, two in rounds))


def _calls(step: Callable[[], object], device: torch.device) -> int:
    """How often to call a step to take long enough for a clock; warms it up."""
    _time(step, WARM_UP - 1, device)
    return max(1, math.ceil(SHORTEST / _time(step, 1, device)))


def _time(step: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of one call."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _wait(device)
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

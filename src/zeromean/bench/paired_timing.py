"""Time several steps in turn, and compare them by the median of paired ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Step = Callable[[], object]
CLOCKS: Mapping[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,  # all threads of this process; other processes hardly affect it
}
WARM_UP = 3  # calls that create state, compile programs and fill caches
MIN_SECONDS = 0.005  # a faster step is repeated within each round
MAX_CALLS = 2**20
MAX_POLLS = 200_000  # several tens of milliseconds


@dataclass(frozen=True)
class Times:
    """The seconds that each step took in each round.

    Args:
        seconds: Seconds per call, one number per round, by the name of the step.
    """

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Return the median time of a step in seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, base: str) -> list[float]:
        """Return the ratio of two steps' times in each round, ``name`` to ``base``."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return [time_of_step / time_of_base for time_of_step, time_of_base in pairs]

    def ratio(self, name: str, base: str) -> float:
        """Return the median of :meth:`ratios`."""
        return statistics.median(self.ratios(name, base))

    def middle_half(self, name: str, base: str) -> tuple[float, float]:
        """Return the lower and upper quartile of :meth:`ratios`, a measure of noise."""
        ratios = self.ratios(name, base)
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high


def time_in_turn(
    steps: Mapping[str, Step],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], object] = lambda: None,
    min_seconds: float = MIN_SECONDS,
) -> Times:
    """Time steps in turn, so that other load on the machine affects all of them alike.

    The order is reversed after each round.

    Args:
        steps: Steps to time, by name.
        rounds: Number of rounds, each with all steps.
        clock: Function that returns the current time in seconds (default: wall time).
        synchronize: Function that waits for the device; called before and after each measurement
            (default: no waiting).
        min_seconds: Shortest duration of a measurement in seconds; a faster step is repeated
            (default 0.005).

    Example:
        >>> from zeromean.bench.paired_timing import time_in_turn
        >>> times = time_in_turn({"long": lambda: sum(range(9)), "short": lambda: None}, rounds=3)
        >>> len(times.seconds["long"]), times.ratio("short", "long") > 0
        (3, True)
    """

    def measure(step: Step, calls: int) -> float:
        synchronize()
        start = clock()
        for _ in range(calls):
            step()
        synchronize()
        return (clock() - start) / calls

    # A clock of processor time may advance by milliseconds at a time.
    least = max(min_seconds, 20 * _tick(clock))
    calls = {}
    for name, step in steps.items():
        measure(step, WARM_UP - 1)
        calls[name] = 1
        while calls[name] < MAX_CALLS and calls[name] * measure(step, calls[name]) < least:
            calls[name] *= 2
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for _ in range(rounds):
        for name in names:
            seconds[name].append(measure(steps[name], calls[name]))
        names.reverse()
    return Times({name: tuple(taken) for name, taken in seconds.items()})


def _tick(clock: Callable[[], float]) -> float:
    """Return the step by which a clock advances, or 0 if it stands still."""
    start = clock()
    for _ in range(MAX_POLLS):
        if (now := clock()) > start:
            return now - start
    return 0.0

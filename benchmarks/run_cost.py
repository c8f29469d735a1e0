"""Measure what ``zeromean run`` adds to a program: at its start, and at its first step.

    python benchmarks/run_cost.py --rounds 9 --millions 0 1 2 4

The program imports torch, makes a number of live objects, and steps an optimizer. It runs
alone and under ``zeromean run`` in turns, on one thread. The start is the difference of the whole
times of a program that does not step. Each time is the smallest of all rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from typing import NamedTuple

PROGRAM = """
import gc, sys, time
import torch
millions = float(sys.argv[1])
if millions >= 0:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    objects = [[number] for number in range(int(millions * 1e6))]
    model(torch.randn(8, 64)).sum().backward()
    live = len(gc.get_objects())
    begin = time.perf_counter(), time.process_time()
    optimizer.step()
    print(live, time.perf_counter() - begin[0], time.process_time() - begin[1])
"""
NO_STEP = -1.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Seconds(NamedTuple):
    """Elapsed time and processor time, in seconds."""

    elapsed: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.elapsed:.3f} s (processor time {self.cpu:.3f} s)"


def run(millions: float, *prefix: str) -> tuple[Seconds, list[float]]:
    """Run the program; return its time, and the numbers that it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    words = [*prefix, sys.executable, "-c", PROGRAM, str(millions)]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    elapsed = time.perf_counter() - begin
    # `zeromean run` exits with 3 if nothing steps.
    if done.returncode not in ((0, 3) if prefix and millions == NO_STEP else (0,)):
        raise SystemExit(f"{done.stderr}{words[:3]} ended with exit code {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    return Seconds(elapsed, cpu), [float(word) for word in done.stdout.split()]


def added(alone: list[Seconds], reached: list[Seconds]) -> Seconds:
    """Return the difference of the smallest times, which other programs disturb the least."""
    least = [Seconds(*map(min, zip(*times, strict=True))) for times in (reached, alone)]
    return Seconds(least[0].elapsed - least[1].elapsed, least[0].cpu - least[1].cpu)


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--millions", type=float, nargs="+", default=[0, 1, 2, 4])
    arguments = parser.parse_args()
    prefix = (sys.executable, "-m", "zeromean", "run", "--")
    rounds = range(arguments.rounds)
    pairs = [(run(NO_STEP)[0], run(NO_STEP, *prefix)[0]) for _ in rounds]
    alone, reached = (list(times) for times in zip(*pairs, strict=True))
    print(f"start: {added(alone, reached)} more than the program alone", flush=True)
    for millions in arguments.millions:
        alone, reached, live = [], [], 0.0
        for _ in rounds:
            alone.append(Seconds(*run(millions)[1][1:]))
            live, *times = run(millions, *prefix)[1]
            reached.append(Seconds(*times))
        print(
            f"{live / 1e6:.2f} million live objects: first step {added(alone, reached)} more",
            flush=True,
        )


if __name__ == "__main__":
    main()

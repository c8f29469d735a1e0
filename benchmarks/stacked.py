"""What training several small networks as one gains: Yale-B's steps, stacked and one by one.

A few epochs of benchmarks/yaleb.toml with a rate at which nothing diverges, turn by turn on one
thread; printed are medians over the rounds of a step's processor time, scoring left out.

    python benchmarks/stacked.py --data yaleb_32x32.npz
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from zeromean.study import declare
from zeromean.study.engine import train
from zeromean.study.engine.stacked import Stack
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.tasks.load import load

RATE, MEMBERS, EPOCHS = 0.05, 4, 2


class Processor:
    """Takes the place of the module ``time``: other programs do not count."""

    perf_counter = staticmethod(time.process_time)


def main() -> None:
    """Measures and prints a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train.time = Processor  # type: ignore[attr-defined]
    study = declare.read(Path(__file__).with_name("yaleb.toml"))
    task = replace(study.tasks[0], data=f"npz:{arguments.data}")
    study = replace(study, tasks=(task,))
    problem = load(study, task)

    def microseconds(method: str, together: bool) -> float:
        keys = [Key(task.label, study.optimizers[0], method, seed) for seed in range(MEMBERS)]
        trainings = [
            train.Training(problem.for_seed(key.seed), study, key, Candidate(RATE)) for key in keys
        ]
        stack = Stack(trainings, together)
        for _ in range(EPOCHS):
            stack.advance()
        seconds = sum(epoch.seconds for one in trainings for epoch in one.epochs)
        return 1e6 * seconds / (EPOCHS * MEMBERS * problem.steps(task.batch_size))

    for method in study.method_labels:
        pairs = [
            (microseconds(method, False), microseconds(method, True))
            for _ in range(arguments.rounds)
        ]
        alone, together = map(statistics.median, zip(*pairs, strict=True))
        ratio = statistics.median(two / one for one, two in pairs)
        print(f"{method}: one by one {alone:.0f} us a step, together {together:.0f}, {ratio:.2f}")


if __name__ == "__main__":
    main()

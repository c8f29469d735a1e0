"""Time the parts of a drop-in's step on 300 tiny tensors, and the step without its memory checks.

    python benchmarks/step_parts.py [--repeats 25]

Prints microseconds of processor time on one thread.
"""

from __future__ import annotations

import argparse
import time
from array import array
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from zeromean.bench.baselines import OPTIMIZERS, TORCH, ZEROMEAN, Work
from zeromean.bench.paired_timing import time_in_turn
from zeromean.bench.tensors import TENSORS
from zeromean.kernels.tensor_memory import Memory, addresses
from zeromean.tables import Table

checked = Memory.addresses


def unchecked(memory: Any, tensors: Sequence[Tensor]) -> array[int]:
    """Return addresses without any check; those in the table are not needed."""
    return array("q") if memory._fixed else addresses(tensors)


def parts(name: str) -> dict[str, Callable[[], object]]:
    """Return the whole steps of an optimizer, and the parts of the drop-in's step."""
    work = Work(OPTIMIZERS[name], TENSORS["tiny"].shapes, torch.device("cpu"))
    optimizer: Any = ZEROMEAN[0].start(work).optimizer
    optimizer.step()
    prepared = optimizer._fused._ready
    step = prepared.parts[0].step
    parameters = prepared.parameters
    gradients = [p.grad for p in parameters]
    held, rules = step._find(), optimizer._fused.bind(optimizer).rules
    shape, found = prepared.shape, addresses(gradients)

    def without_checks() -> None:
        Memory.addresses = unchecked
        optimizer.step()
        Memory.addresses = checked

    return {
        "torch fused, whole step": TORCH[0].start(work).step,
        "drop-in, whole step": optimizer.step,
        "the same without memory checks": without_checks,
        "read the gradients": lambda: [*map(attrgetter("grad"), parameters)],
        "compare parameters and state": lambda: prepared.fits(
            shape, parameters, [], optimizer.state
        ),
        "look up the state": step._find,
        "check the memory of weights and state": lambda: step._held.addresses(held),
        "check the memory of gradients": lambda: step._passed.addresses(gradients),
        "kernel": lambda: step._run(found, rules),
        "count versions": lambda: increment_version(parameters),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=25, help="number of rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = {}
    for name in OPTIMIZERS:
        steps = parts(name)
        times = time_in_turn(steps, arguments.repeats, clock=time.process_time)
        columns[name] = [f"{1e6 * min(times.seconds[part]):.0f}" for part in steps]
        checked, free = ([*steps][n] for n in (1, 2))
        columns[name].append(f"{times.ratio(checked, free):.2f}")
    rows = zip([*steps, "with / without memory checks"], *columns.values(), strict=True)
    print(Table(("part", *columns), [*rows]).markdown())


if __name__ == "__main__":
    main()

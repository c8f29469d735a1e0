"""What a step costs in processor time of one thread: for machines that others compute on meanwhile.

    python benchmarks/processor_time.py [--repeats 9] [--tensors resnet50 gpt2 tiny]

Contenders take turns; a ratio is the median over rounds to torch's fused step without GC. ``add_``
of a number to all gradients in place shows what no separate pass can undercut: each is read and
written once. Last, ResNet-18 at batch 128: what GC adds to a whole training step, as the difference
of two optimizer steps by the time of a training step, because half a percent of the latter drowns
in its noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import zeromean
from zeromean import optim
from zeromean.bench.tensors import TENSORS
from zeromean.study.networks.build import build

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "AdamW": {"lr": 1e-3},
}


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """Small random parameters with small random gradients."""
    made = [nn.Parameter(0.01 * torch.randn(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return made


def contenders(name: str, make: Callable[[], list[nn.Parameter]]) -> dict[str, Callable[[], Any]]:
    """The steps to compare, the first of them without GC."""

    def torchs(at: Any = None) -> Callable[[], Any]:
        optimizer = getattr(torch.optim, name)(make(), fused=True, **OPTIMIZERS[name])
        if at is not None:
            zeromean.centralize(optimizer, at=at)
        return optimizer.step

    gradients = torch.randn(sum(p.numel() for p in make() if p.ndim > 1))
    drop_in = getattr(optim, name)
    return {
        "torch fused, no GC": torchs(),
        "zeromean.optim, at gradient": drop_in(make(), **OPTIMIZERS[name]).step,
        "zeromean.optim, at update": drop_in(make(), at="update", **OPTIMIZERS[name]).step,
        "centralize(torch fused), at gradient": torchs("gradient"),
        "centralize(torch fused), at update": torchs("update"),
        "add_, alone": lambda: gradients.add_(1e-9),
    }


def measure(steps: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step in each round."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return times


def resnet18(repeats: int) -> None:
    """What the centering of a drop-in adds to a whole training step."""
    model = build("resnet18", channels=3, side=32, classes=10, seed=0)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    start = time.process_time()
    F.cross_entropy(model(images), labels).backward()
    whole = time.process_time() - start
    shapes = [tuple(p.shape) for p in model.parameters()]
    for name in OPTIMIZERS:
        times = measure(contenders(name, lambda: parameters(shapes)), repeats)
        base = times["torch fused, no GC"]
        for step in list(times)[1:-1]:
            more = statistics.median(a - b for a, b in zip(times[step], base, strict=True))
            print(f"| ResNet-18, {name}: {step} | {1 + more / (whole + min(base)):.4f} |")


def main() -> None:
    """Print one table for each set of tensors and optimizer, and one of ResNet-18."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tensors", nargs="*", choices=TENSORS, default=list(TENSORS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", zeromean.ZeromeanWarning)  # tensors without a model
    for tensors in chosen.tensors:
        shapes = [tuple(shape) for shape in TENSORS[tensors].shapes()]
        for name in OPTIMIZERS:
            times = measure(contenders(name, lambda s=shapes: parameters(s)), chosen.repeats)
            base = times["torch fused, no GC"]
            print(f"\n| {name}, {tensors} | ms | of torch fused without GC |\n|---|---|---|")
            for step, taken in times.items():
                ratio = statistics.median(a / b for a, b in zip(taken, base, strict=True))
                print(
                    f"| {step} | {1e3 * statistics.median(taken):.2f} | {ratio:.3f} |", flush=True
                )
    print("\n| a training step at batch 128 | of the same without GC |\n|---|---|")
    resnet18(chosen.repeats)


if __name__ == "__main__":
    main()

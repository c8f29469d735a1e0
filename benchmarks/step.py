"""What one optimizer step costs with GC and without: interleaved, medians of paired ratios.

    python benchmarks/step.py [--repeats 25] [--threads 2] [--tensors resnet50 gpt2 tiny]

Every contender has tensors and gradients of its own. A round times each once, in turn, so that a
slow moment of a shared machine meets all of them; a ratio is the median over rounds of its time by
that of torch's fused step without GC in the same round.
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

import zeromean
from zeromean import kernels, optim

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """ResNet-50's 161 tensors."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2() -> Shapes:
    """GPT-2 small's 148 tensors, matrices as (out, in); embeddings are centered along rows here."""
    shapes: Shapes = [(50257, 768), (1024, 768)]
    for _ in range(12):
        shapes += [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
        shapes += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [*shapes, (768,), (768,)]


def tiny() -> Shapes:
    """300 tiny matrices: what a step costs in Python."""
    return [(4, 3)] * 300


TENSORS: dict[str, Callable[[], Shapes]] = {"resnet50": resnet50, "gpt2": gpt2, "tiny": tiny}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "AdamW": {"lr": 1e-3},
}


def parameters(shapes: Shapes) -> list[nn.Parameter]:
    """Small random parameters with small random gradients."""
    made = [nn.Parameter(0.01 * torch.randn(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return made


def contenders(name: str, shapes: Shapes) -> dict[str, Callable[[], Any]]:
    """The steps to compare, the first of them without GC."""
    options = OPTIMIZERS[name]
    plain, drop_in = getattr(torch.optim, name), getattr(optim, name)
    hooked = plain(parameters(shapes), fused=True, **options)
    zeromean.centralize(hooked)
    published = plain(parameters(shapes), fused=True, **options)

    def loop() -> None:
        for group in published.param_groups:
            for p in group["params"]:
                if p.ndim > 1:
                    p.grad.add_(-p.grad.mean(dim=tuple(range(1, p.ndim)), keepdim=True))
        published.step()

    return {
        "torch fused, no GC": plain(parameters(shapes), fused=True, **options).step,
        "zeromean.optim, at gradient": drop_in(parameters(shapes), **options).step,
        "zeromean.optim, at update": drop_in(parameters(shapes), at="update", **options).step,
        "centralize(torch fused)": hooked.step,
        "published loop, torch fused": loop,
    }


def measure(steps: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step in each round."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print one table for each set of tensors and optimizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tensors", nargs="+", choices=TENSORS, default=list(TENSORS))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore", zeromean.ZeromeanWarning)  # tensors without a model
    print(f"torch {torch.__version__}, {chosen.threads} threads, {kernels.backend()} kernels")
    for tensors in chosen.tensors:
        for name in OPTIMIZERS:
            times = measure(contenders(name, TENSORS[tensors]()), chosen.repeats)
            base = next(iter(times.values()))
            print(f"\n| {name}, {tensors} | ms | of torch fused without GC |\n|---|---|---|")
            for step, taken in times.items():
                ratio = statistics.median(a / b for a, b in zip(taken, base, strict=True))
                print(f"| {step} | {1e3 * statistics.median(taken):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

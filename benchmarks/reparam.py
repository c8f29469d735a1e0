"""What a re-parametrized layer costs, forward and backward, beside the plain one and torch's.

    python benchmarks/reparam.py [--repeats 60] [--threads 2] [--clock wall] [--work linear conv]

A round runs each contender once, in turn, so that a slow moment of a shared machine meets all of
them; a ratio is the median over rounds of its time by another's in the same round. ``--clock cpu``
counts this process's own processor time instead, for machines that others use at the same time.

Memory that the allocator hands back is cleared anew page by page, in whichever contender's turn it
is asked for; on Linux these keep it, as a training run's larger heap does:

    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=17179869184
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import zeromean
from zeromean import kernels

Make = Callable[[], nn.Module]
# name -> (the plain layer, shape of a batch)
WORK: dict[str, tuple[Make, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(1024, 1024), (256, 1024)),
    "conv": (lambda: nn.Conv2d(128, 128, 3, padding=1), (64, 128, 32, 32)),
}


class ByAutograd(nn.Module):
    """CWN's formula in plain operations, as it is usually written."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        axes = tuple(range(1, v.ndim))
        x = v - v.mean(axes, keepdim=True)
        return g * x / torch.linalg.vector_norm(x, dim=axes, keepdim=True)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        axes = tuple(range(1, weight.ndim))
        return torch.linalg.vector_norm(weight, dim=axes, keepdim=True), weight


def contenders(make: Make) -> dict[str, nn.Module]:
    """The layers to compare."""
    layers = {}
    for name in ("plain", "torch's weight_norm", "formula in autograd", "wn", "cwn", "ws"):
        layer = make()
        if name == "torch's weight_norm":
            parametrizations.weight_norm(layer)
        elif name == "formula in autograd":
            parametrize.register_parametrization(layer, "weight", ByAutograd())
        elif name != "plain":
            zeromean.reparametrize(layer, name)  # type: ignore[arg-type]
        layers[name] = layer
    layers["cwn, folded"] = make()
    zeromean.reparametrize(layers["cwn, folded"], "cwn")
    zeromean.fold(layers["cwn, folded"])
    return layers


def measure(
    layers: dict[str, nn.Module], shape: tuple[int, ...], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of forward and backward of each layer in each round."""
    x = torch.randn(shape, requires_grad=True)
    grad = torch.randn_like(layers["plain"](x))
    times: dict[str, list[float]] = {name: [] for name in layers}
    for number in range(repeats + 3):
        for name, layer in layers.items():
            x.grad = None
            layer.zero_grad()
            start = clock()
            layer(x).backward(grad)
            if number >= 3:
                times[name].append(clock() - start)
    return times


def main() -> None:
    """Print one table for each work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time
    print(f"torch {torch.__version__}, {chosen.threads} threads, {chosen.clock} time", end=", ")
    print(f"{kernels.backend()} kernels")
    for work in chosen.work:
        make, shape = WORK[work]
        times = measure(contenders(make), shape, chosen.repeats, clock)
        print(f"\n| {work} | ms | of plain | of torch's weight_norm |\n|---|---|---|---|")
        for name, taken in times.items():
            of = [
                statistics.median(a / b for a, b in zip(taken, times[base], strict=True))
                for base in ("plain", "torch's weight_norm")
            ]
            print(f"| {name} | {1e3 * statistics.median(taken):.2f} | {of[0]:.3f} | {of[1]:.3f} |")


if __name__ == "__main__":
    main()

"""Time forward and backward of re-parametrized layers, relative to the plain layer.

    python benchmarks/reparam.py [--repeats 60] [--threads 2] [--clock wall] [--work linear conv]

The allocator returns memory to the system and gets it back as zeroed pages, in whichever layer's
turn that happens. On Linux these variables keep the memory, as the larger heap of a training does:

    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=17179869184
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import zeromean
from zeromean import kernels
from zeromean.bench.paired_timing import CLOCKS, Step, time_in_turn
from zeromean.tables import Table

# name -> (plain layer, shape of a batch)
WORK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(1024, 1024), (256, 1024)),
    "conv": (lambda: nn.Conv2d(128, 128, 3, padding=1), (64, 128, 32, 32)),
}


class PlainAutograd(nn.Module):
    """CWN's formula in plain operations."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return g (v - mean v) / ||v - mean v||."""
        axes = tuple(range(1, v.ndim))
        x = v - v.mean(axes, keepdim=True)
        return g * x / torch.linalg.vector_norm(x, dim=axes, keepdim=True)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and v of a weight."""
        axes = tuple(range(1, weight.ndim))
        return torch.linalg.vector_norm(weight, dim=axes, keepdim=True), weight


def reparametrized(layer: nn.Module, name: str) -> nn.Module:
    """Re-parametrize a layer."""
    if name == "torch weight_norm":
        parametrizations.weight_norm(layer)
    elif name == "cwn, plain autograd":
        parametrize.register_parametrization(layer, "weight", PlainAutograd())
    elif name != "plain":
        zeromean.reparametrize(layer, name.partition(",")[0])  # type: ignore[arg-type]
    if name.endswith("folded"):
        zeromean.fold(layer)
    return layer


def training_step(layer: nn.Module, shape: tuple[int, ...]) -> Step:
    """Return forward and backward of a layer."""
    x = torch.randn(shape, requires_grad=True)
    gradient = torch.randn_like(layer(x))

    def step() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x).backward(gradient)

    return step


def main() -> None:
    """Print one table per layer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=60, help="number of rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {kernels.backend()} kernels")
    names = ("plain", "torch weight_norm", "cwn, plain autograd", "wn", "cwn", "ws", "cwn, folded")
    for work in arguments.work:
        make, shape = WORK[work]
        steps = {name: training_step(reparametrized(make(), name), shape) for name in names}
        times = time_in_turn(steps, arguments.repeats, clock=CLOCKS[arguments.clock])
        rows = [
            (
                name,
                f"{1e3 * times.median(name):.2f}",
                f"{times.ratio(name, 'plain'):.3f}",
                f"{times.ratio(name, 'torch weight_norm'):.3f}",
            )
            for name in names
        ]
        header = (work, f"{arguments.clock} ms", "to plain", "to torch weight_norm")
        print(f"\n{Table(header, rows).markdown()}", flush=True)


if __name__ == "__main__":
    main()

"""What one optimizer step costs on a GPU with GC and without, beside what its memory can copy.

    python benchmarks/gpu.py [--repeats 50] [--tensors resnet50 gpt2] [--types float32 bfloat16]

Needs a CUDA device, a CUDA build of torch and nothing else. Every contender has tensors and
gradients of its own. A round times each once, in turn; a ratio is the median over rounds of its
time by that of torch's fused step without GC in the same round. Times are between CUDA events, so
what Python does beside a busy device does not count; the column "host" says what it does.

Bytes are those a step has to move: it reads weight, gradient and state, and writes weight and
state, each once: 28 a parameter for AdamW in float32, 20 for SGD with momentum. They are shown as a
share of the bandwidth that a copy of 4 GB reaches in the same run.

``--shapes`` asks which tile is best on this device: binary logarithms of a tile's runs of 16
entries, and warps a program.
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
from zeromean.bench.tensors import TENSORS, Shapes
from zeromean.kernels import triton_backend

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "AdamW": {"lr": 1e-3},
}
# Tensors that a step reads and writes.
MOVED = {"SGD": 3 + 2, "AdamW": 4 + 3}


def parameters(shapes: Shapes, dtype: torch.dtype) -> list[nn.Parameter]:
    """Small random parameters with small random gradients."""
    made = [nn.Parameter(0.01 * torch.randn(shape, device="cuda", dtype=dtype)) for shape in shapes]
    for parameter in made:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return made


def contenders(name: str, shapes: Shapes, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """The steps to compare, the first of them without GC."""
    options = OPTIMIZERS[name]
    plain, drop_in = getattr(torch.optim, name), getattr(optim, name)
    hooked = plain(parameters(shapes, dtype), fused=True, **options)
    zeromean.centralize(hooked)
    kept = plain(parameters(shapes, dtype), fused=True, **options)
    zeromean.centralize(kept, at="update")
    return {
        "torch fused, no GC": plain(parameters(shapes, dtype), fused=True, **options).step,
        "zeromean.optim, at gradient": drop_in(parameters(shapes, dtype), **options).step,
        "zeromean.optim, at update": drop_in(
            parameters(shapes, dtype), at="update", **options
        ).step,
        "centralize(torch fused)": hooked.step,
        "centralize(torch fused), at update": kept.step,
    }


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the device, and on the host until it has asked for everything."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # Work that outlasts the host's part, so that the device never waits for it in between.
    torch.cuda._sleep(20_000_000)
    start.record()
    asked = time.perf_counter()
    step()
    asked = time.perf_counter() - asked
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3, asked


def copy_bandwidth(repeats: int) -> float:
    """Bytes a second, read and written, of the copy of a tensor far larger than any cache."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [timed(lambda: target.copy_(source))[0] for _ in range(repeats + 3)][3:]
    return 2 * source.numel() / statistics.median(times)


def measure(
    steps: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each step in each round, on the device and on the host."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(timed(step))
    return times


def table(name: str, tensors: str, dtype: torch.dtype, repeats: int, bandwidth: float) -> None:
    """Print what the steps of one optimizer on one set of tensors cost."""
    shapes = TENSORS[tensors].shapes()
    times = measure(contenders(name, shapes, dtype), repeats)
    moved = MOVED[name] * dtype.itemsize * sum(torch.Size(shape).numel() for shape in shapes)
    base = next(iter(times.values()))
    print(f"\n| {name}, {tensors}, {dtype} | us | of torch fused without GC | of copy | host us |")
    print("|---|---|---|---|---|")
    for step, taken in times.items():
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(taken, base, strict=True))
        device, host = (statistics.median(column) for column in zip(*taken, strict=True))
        share = f"{moved / device / bandwidth:.0%}" if "centralize" not in step else ""
        print(f"| {step} | {1e6 * device:.1f} | {ratio:.3f} | {share} | {1e6 * host:.0f} |")


def shapes(dtype: torch.dtype, repeats: int) -> None:
    """Print what the step costs with other triton_kernels."""
    print(f"\n| AdamW, gpt2, {dtype}: levels, warps, registers | us |\n|---|---|")
    levels, launch = dict(triton_backend._LEVELS), dict(triton_backend._LAUNCH)
    for level in (6, 7, 8, 9):
        for warps, registers in ((4, 128), (4, 255), (8, 64), (8, 128), (8, 255), (16, 64)):
            triton_backend._LEVELS[dtype] = level
            triton_backend._LAUNCH.update(num_warps=warps, maxnreg=registers)
            step = optim.AdamW(parameters(TENSORS["gpt2"].shapes(), dtype), lr=1e-3).step
            (taken,) = measure({"": step}, repeats).values()
            spent = statistics.median(device for device, _ in taken)
            print(f"| {level}, {warps}, {registers} | {1e6 * spent:.1f} |")
    triton_backend._LEVELS.update(levels)
    triton_backend._LAUNCH.update(launch)


def main() -> None:
    """Print one table for each type, set of tensors and optimizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--tensors", nargs="+", choices=TENSORS, default=list(TENSORS))
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--shapes", action="store_true")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a CUDA device and a CUDA build of torch")
    if kernels.backend("cuda") != "triton":
        raise SystemExit("benchmarks/gpu.py measures the triton kernels: install triton")
    warnings.simplefilter("ignore", zeromean.ZeromeanWarning)  # tensors without a model
    bandwidth = copy_bandwidth(chosen.repeats)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", end=", ")
    print(f"a copy reads and writes {bandwidth / 1e12:.2f} TB/s")
    for dtype in (getattr(torch, name) for name in chosen.types):
        for tensors in chosen.tensors:
            for name in OPTIMIZERS:
                table(name, tensors, dtype, chosen.repeats, bandwidth)
        if chosen.shapes:
            shapes(dtype, chosen.repeats)


if __name__ == "__main__":
    main()

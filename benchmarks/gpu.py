"""Time optimizer steps on a CUDA device by its own events, with and without GC.

    python benchmarks/gpu.py [--repeats 50] [--tensors resnet50 gpt2] [--types float32 bfloat16]

``zeromean bench --device cuda`` measures what a user waits for. Here the device is kept busy until
all kernels of a step are queued, so that the time of Python does not count. "Share of copy" is the
bandwidth of the bytes that a step must move, relative to a copy of 2 GB. ``--tiles`` compares tile
sizes of the Triton kernels (binary logarithms of a tile's runs of 16 entries), warps and registers.
"""

from __future__ import annotations

import argparse

import torch

from zeromean import kernels
from zeromean.bench.baselines import OPTIMIZERS, TORCH, ZEROMEAN, Work
from zeromean.bench.paired_timing import Step, Times
from zeromean.bench.tensors import TENSORS
from zeromean.kernels import triton_backend
from zeromean.tables import Table

BASELINES = (TORCH[0], *ZEROMEAN[:4])


def device_seconds(step: Step) -> float:
    """Return the seconds between two events on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(20_000_000)  # longer than Python needs to queue the step
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def measure(steps: dict[str, Step], rounds: int) -> Times:
    """Time steps in turn on the device."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 3):
        for name, step in steps.items():
            seconds[name].append(device_seconds(step))
    return Times({name: tuple(taken[3:]) for name, taken in seconds.items()})


def compare(work: Work, title: str, rounds: int, bandwidth: float) -> None:
    """Print a table of all baselines."""
    steps = {baseline.name: baseline.start(work).step for baseline in BASELINES}
    times = measure(steps, rounds)
    entries = sum(torch.Size(shape).numel() for shape in work.shapes)
    moved = work.hyper.bytes_per_parameter * entries * work.dtype.itemsize // 4
    rows = [
        (
            name,
            f"{1e6 * times.median(name):.1f}",
            f"{times.ratio(name, TORCH[0].name):.3f}",
            f"{moved / times.median(name) / bandwidth:.0%}",
        )
        for name in steps
    ]
    print(f"\n{Table((title, 'us', 'ratio', 'share of copy'), rows).markdown()}", flush=True)


def compare_tiles(work: Work, rounds: int) -> None:
    """Print the time of a step for other tiles of the Triton kernels."""
    levels, launch = dict(triton_backend._LEVELS), dict(triton_backend._LAUNCH)
    rows = []
    for level in (6, 7, 8, 9):
        for warps, registers in ((4, 128), (4, 255), (8, 64), (8, 128), (8, 255), (16, 64)):
            triton_backend._LEVELS[work.dtype] = level
            triton_backend._LAUNCH.update(num_warps=warps, maxnreg=registers)
            seconds = measure({"": ZEROMEAN[0].start(work).step}, rounds).median("")
            rows.append((f"{level}, {warps}, {registers}", f"{1e6 * seconds:.1f}"))
    triton_backend._LEVELS.update(levels)
    triton_backend._LAUNCH.update(launch)
    header = (f"{work.hyper.name}, {work.dtype}: level, warps, registers", "us")
    print(f"\n{Table(header, rows).markdown()}")


def main() -> None:
    """Print one table per type, set of tensors and optimizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=50, help="number of rounds")
    parser.add_argument("--tensors", nargs="+", choices=TENSORS, default=list(TENSORS))
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tiles", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or kernels.backend("cuda") != "triton":
        raise SystemExit("benchmarks/gpu.py needs a CUDA device, a CUDA build of torch and triton")
    device = torch.device("cuda")
    source = torch.empty(2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = measure({"copy": lambda: target.copy_(source)}, arguments.repeats).median("copy")
    bandwidth = 2 * source.numel() / copy
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", end=", ")
    print(f"a copy reads and writes {bandwidth / 1e12:.2f} TB/s")
    for dtype in (getattr(torch, name) for name in arguments.types):
        for tensors in arguments.tensors:
            for hyper in OPTIMIZERS.values():
                work = Work(hyper, TENSORS[tensors].shapes, device, dtype)
                title = f"{hyper.name}, {tensors}, {dtype}"
                compare(work, title, arguments.repeats, bandwidth)
        if arguments.tiles:
            work = Work(OPTIMIZERS["adamw"], TENSORS["gpt2"].shapes, device, dtype)
            compare_tiles(work, arguments.repeats)


if __name__ == "__main__":
    main()

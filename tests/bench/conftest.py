"""A benchmark's results made up by hand, so that what is shown of them can be told exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zeromean.bench.contestants import CONTESTANTS
from zeromean.bench.contestants.zeromeans_own import ZEROMEAN
from zeromean.bench.run import Benchmark, Match, Result
from zeromean.bench.settings import Settings
from zeromean.bench.timing import Duel
from zeromean.bench.traffic import Traffic


@pytest.fixture
def benchmark_result(tmp_path: Path) -> Benchmark:
    """Every contestant took three times as long as torch's fused step, but the last is missing."""
    settings = Settings(tensors=("tiny",), optimizers=("adamw",), repeats=3, out=tmp_path / "out")
    base, *others = CONTESTANTS
    duel = Duel(base=(0.001, 0.002, 0.004), other=(0.003, 0.006, 0.016))
    results = [Result(contestant, duel) for contestant in others[:-1]]
    results.append(Result(others[-1], "not installed"))
    return Benchmark(
        settings,
        {"torch": "9.9", "kernels": "native"},
        [Match("tiny", "adamw", base, tuple(results))],
        {("tiny", "adamw"): Traffic(1000, 28, Duel((2e-6, 2e-6), (4e-6, 8e-6)))},
        {
            (ZEROMEAN[1], torch.float32): 0,
            (ZEROMEAN[1], torch.bfloat16): 4800,
        },
        {("adamw", ZEROMEAN[0]): Duel((2.0, 2.0), (2.0, 2.01))},
    )

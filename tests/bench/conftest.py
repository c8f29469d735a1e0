"""Constructed results of a benchmark, so that tables and figures can be tested exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zeromean.bench.bandwidth import Bandwidth
from zeromean.bench.baselines import BASELINES, ZEROMEAN
from zeromean.bench.paired_timing import Times
from zeromean.bench.run import Benchmark, Comparison, Settings


@pytest.fixture
def benchmark_result(tmp_path: Path) -> Benchmark:
    """Every baseline took three times as long as the first; the last is unavailable."""
    settings = Settings(tensors=("tiny",), optimizers=("adamw",), repeats=3, out=tmp_path / "out")
    base, *others = BASELINES
    results: dict = {
        one: Times({base.name: (0.001, 0.002, 0.004), one.name: (0.003, 0.006, 0.016)})
        for one in others
    }
    results[others[-1]] = "not installed"
    steps = Times({"copy": (2e-6, 2e-6), "step": (4e-6, 8e-6)})
    return Benchmark(
        settings,
        {"torch": "9.9", "kernels": "native"},
        [Comparison("tiny", "adamw", base, results)],
        {("tiny", "adamw"): Bandwidth(1000, 28, steps)},
        {(ZEROMEAN[1], torch.float32): 0, (ZEROMEAN[1], torch.bfloat16): 4800},
        {("adamw", ZEROMEAN[0]): Times({base.name: (2.0, 2.0), ZEROMEAN[0].name: (2.0, 2.01)})},
    )

"""Measure the cost of ``zeromean.monitor``: python benchmarks/monitor.py.

Processor time of one thread. A training step that is sampled, a step between two samples and a step
without the monitor take turns. At the default interval, a run pays (sampled - 1) / 50 and
(between - 1).
"""

from __future__ import annotations

import copy
import inspect
import time

import torch
from torch import nn
from torch.nn import functional as F

import zeromean
from zeromean.bench.paired_timing import Step, time_in_turn
from zeromean.study.networks.build import build
from zeromean.tables import Table

INTERVAL = inspect.signature(zeromean.monitor).parameters["every"].default
# name -> (network, shape of a batch, number of rounds)
NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "mlp, batch 64": (build("mlp", 1, 8, 10, seed=0), (64, 1, 8, 8), 300),
    "resnet20, batch 64": (build("resnet20", 3, 32, 10, seed=0), (64, 3, 32, 32), 9),
    "resnet18, batch 8": (build("resnet18", 3, 32, 10, seed=0), (8, 3, 32, 32), 9),
    "a transformer layer of width 256, 8 x 128 tokens": (
        nn.TransformerEncoderLayer(256, 4, batch_first=True),
        (8, 128, 256),
        21,
    ),
}


def training_step(network: nn.Module, shape: tuple[int, ...], every: int | None) -> Step:
    """Return a training step, with a monitor or (None) without."""
    model = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    zeromean.centralize(optimizer, model)
    if every is not None:
        zeromean.monitor(optimizer, model, every, to=lambda sample: None)
    images = torch.randn(shape)

    def step() -> None:
        optimizer.zero_grad()
        out = model(images)
        F.mse_loss(out, torch.zeros_like(out)).backward()
        optimizer.step()

    return step


def main() -> None:
    """Print one row per network."""
    torch.set_num_threads(1)
    rows = []
    for name, (network, shape, rounds) in NETWORKS.items():
        intervals = {"plain": None, "sampled": 1, "between": 10**9}
        steps = {one: training_step(network, shape, every) for one, every in intervals.items()}
        times = time_in_turn(steps, rounds, clock=time.process_time, min_seconds=0)
        sampled, between = (times.ratio(one, "plain") for one in ("sampled", "between"))
        cost = f"{(sampled - 1) / INTERVAL:.2%}"
        ms = f"{1e3 * times.median('plain'):.3g}"
        rows.append((name, ms, f"{sampled:.2f}", f"{between:.3f}", cost))
    header = ("training", "step, ms", "sampled", "between", f"cost at every={INTERVAL}")
    print(Table(header, rows).markdown())


if __name__ == "__main__":
    main()

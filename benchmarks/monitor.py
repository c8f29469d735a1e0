"""What watching a training costs: python benchmarks/monitor.py.

Processor time of one thread, so that what else the machine does counts little. A training step that
is sampled, one between two samples and one that is not watched take turns; a run pays, at the
default interval, (sampled - 1) / 50, and between - 1.
"""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import zeromean
from zeromean.study.networks.build import build

EVERY = inspect.signature(zeromean.monitor).parameters["every"].default
NETWORKS = {
    "mlp, batch 64": (build("mlp", 1, 8, 10, seed=0), (64, 1, 8, 8), 300),
    "resnet20, batch 64": (build("resnet20", 3, 32, 10, seed=0), (64, 3, 32, 32), 9),
    "resnet18, batch 8": (build("resnet18", 3, 32, 10, seed=0), (8, 3, 32, 32), 9),
    "a transformer layer of width 256, 8 x 128 tokens": (
        nn.TransformerEncoderLayer(256, 4, batch_first=True),
        (8, 128, 256),
        21,
    ),
}


def training(
    network: nn.Module, shape: tuple[int, ...], every: int | None
) -> Callable[[], torch.Tensor]:
    """One training step, watched or (None) not."""
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


torch.set_num_threads(1)
print(f"| training | step, ms | sampled | between | cost at every={EVERY} |\n|---|---|---|---|---|")
for name, (network, shape, rounds) in NETWORKS.items():
    steps = [training(network, shape, every) for every in (None, 1, 10**9)]
    times: list[list[float]] = [[], [], []]
    for number in range(rounds + 2):
        for step, taken in zip(steps, times, strict=True):
            start = time.process_time()
            step()
            if number >= 2:
                taken.append(time.process_time() - start)
    plain = statistics.median(times[0])
    sampled, between = (
        statistics.median(b / a for a, b in zip(times[0], other, strict=True))
        for other in times[1:]
    )
    print(
        f"| {name} | {1e3 * plain:.3g} | {sampled:.2f} | {between:.3f} |"
        f" {(sampled - 1) / EVERY:.2%} |",
        flush=True,
    )

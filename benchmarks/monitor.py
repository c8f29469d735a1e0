"""What watching a training costs: python benchmarks/monitor.py.

A training step that is sampled takes turns with one that is not watched at all, and so does a step
between two samples. At the default interval a run pays (sampled - 1) / 50 + (between - 1).
"""

from __future__ import annotations

import copy
import inspect

import torch
from torch import nn
from torch.nn import functional as F

import zeromean
from zeromean.bench.timing import duel
from zeromean.study.networks.build import build

CPU = torch.device("cpu")
EVERY = inspect.signature(zeromean.monitor).parameters["every"].default
NETWORKS = {
    "mlp, batch 64": (build("mlp", 1, 8, 10, seed=0), (64, 1, 8, 8)),
    "resnet20, batch 64": (build("resnet20", 3, 32, 10, seed=0), (64, 3, 32, 32)),
    "resnet18, batch 16": (build("resnet18", 3, 32, 10, seed=0), (16, 3, 32, 32)),
    "transformer layer, 8 x 128 tokens": (
        nn.TransformerEncoderLayer(256, 4, batch_first=True),
        (8, 128, 256),
    ),
}


def training(network: nn.Module, shape: tuple[int, ...], every: int | None) -> object:
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


torch.set_num_threads(2)
print(f"| training | step, ms | sampled | between | cost at every={EVERY} |\n|---|---|---|---|---|")
for name, (network, shape) in NETWORKS.items():
    plain = training(network, shape, None)
    sampled = duel(plain, training(network, shape, 1), 15, CPU)
    between = duel(plain, training(network, shape, 10**9), 31, CPU)
    cost = (sampled.ratio - 1) / EVERY
    milliseconds = 1e3 * sorted(sampled.base)[len(sampled.base) // 2]
    print(
        f"| {name} | {milliseconds:.3g} | {sampled.ratio:.2f} | {between.ratio:.3f} | {cost:.2%} |",
        flush=True,
    )

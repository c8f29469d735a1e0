"""A whole training step, forward and backward included, with centering and without."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from zeromean.bench.contestants.contestant import Make
from zeromean.bench.work import Hyper
from zeromean.study.networks.build import build

NETWORK = "resnet18"
BATCH = 128
SIDE = 32  # pixels
CLASSES = 10


def training_step(
    make: Make, hyper: Hyper, device: torch.device, network: str = NETWORK, batch: int = BATCH
) -> Callable[[], object]:
    """One training step of a network of the study on random images, always the same batch.

    Args:
        make: Makes the optimizer, of the model's parameters and of the model.
        hyper: Which, and its hyper-parameters.
        device: Where.
        network: A key of the study's networks (default "resnet18").
        batch: Images a step (default 128).
    """
    model = build(network, channels=3, side=SIDE, classes=CLASSES, seed=0).to(device)
    optimizer = make(hyper, list(model.parameters()), model)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, SIDE, SIDE, generator=random).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=random).to(device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step

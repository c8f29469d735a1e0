"""The Yale-B column of CWN's Table 1: plain, NNN, WN, CWN, and plain with GC.

    python benchmarks/yaleb.py --data FILE --out DIR [--epochs 100] [--seeds 5]

Huang et al., ICCV 2017: an MLP 1024-128-64-48-48-38 with ReLU on 32x32 grey faces of 38 people,
SGD with batches of 32, the learning rate one of .1, .2, .5, 1. FILE is an .npz with ``images``
(n, 32, 32) and ``labels`` (n,). For each seed 10 images a class are drawn for the test, 5 more for
validation. A method's settings are those with the least validation error, averaged over the first
seeds; it is then trained anew on all that is not test, once a seed. The error is that after the
last epoch. Every finished run is a file in DIR, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeromean

WIDTHS = (1024, 128, 64, 48, 48, 38)
RATES = (0.1, 0.2, 0.5, 1.0)
BATCH = 32
# Error in %, mean of five runs; GC is no column of that table.
PUBLISHED = {"plain": 6.16, "plain + gc": None, "wn": 4.68, "cwn": 4.20, "nnn": 6.58}
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    method: {"lr": RATES, "eps": (0.01, 0.1, 1.0)} if method == "nnn" else {"lr": RATES}
    for method in PUBLISHED
}


def network(method: str, options: dict[str, float]) -> nn.Sequential:
    """The MLP, re-parametrized by the method, g from 1 as in the paper."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    if method in ("wn", "cwn"):
        zeromean.reparametrize(model, method, init="unit")
    elif method == "nnn":
        zeromean.reparametrize(model, method, eps=options["eps"], every=200)
    return model


def split(labels: Tensor, seed: int, validate: bool) -> tuple[Tensor, Tensor]:
    """Indices to train on and to measure on: the test images, or as many of the others."""
    generator = torch.Generator().manual_seed(seed)
    train, test, validation = [], [], []
    for label in labels.unique():
        own = torch.nonzero(labels == label).flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        test.append(own[:10])
        validation.append(own[10:15])
        train.append(own[15:])
    if validate:
        return torch.cat(train), torch.cat(validation)
    return torch.cat(train + validation), torch.cat(test)


def run(
    images: Tensor, labels: Tensor, method: str, options: dict[str, float], seed: int,
    validate: bool, epochs: int,
) -> dict[str, Any]:  # fmt: skip
    """Train once; the error in % after the last epoch, and the loss along the way."""
    train, held_out = split(labels, seed, validate)
    x = images - images[train].mean(0)
    x = x / images[train].std(0)
    torch.manual_seed(seed)  # the same start for all methods
    model = network(method, options)
    optimizer = torch.optim.SGD(model.parameters(), lr=options["lr"])
    if method == "plain + gc":
        zeromean.centralize(optimizer, model)
    order = torch.Generator().manual_seed(seed)
    losses, start = [], time.perf_counter()
    for _ in range(epochs):
        total = 0.0
        for batch in train[torch.randperm(len(train), generator=order)].split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total += len(batch) * loss.item()
        losses.append(total / len(train))
        if not np.isfinite(losses[-1]):
            break
    model.eval()
    with torch.no_grad():
        wrong = model(x[held_out]).argmax(1) != labels[held_out]
    return {
        "error": 100 * wrong.double().mean().item(),
        "losses": losses,
        "seconds": time.perf_counter() - start,
    }


def settings(method: str) -> Iterator[dict[str, float]]:
    """Every point of the method's grid."""
    grid = GRIDS[method]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def stored(out: Path, name: str, make: Any) -> dict[str, Any]:
    """The run of this name, from its file or made now."""
    file = out / f"{name}.json"
    if not file.exists():
        file.with_suffix(".tmp").write_text(json.dumps(make()))
        file.with_suffix(".tmp").rename(file)
        print(time.strftime("%H:%M:%S"), name, json.loads(file.read_text())["error"], flush=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--validation-seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    chosen.out.mkdir(parents=True, exist_ok=True)
    with np.load(chosen.data) as data:
        images = torch.from_numpy(data["images"]).flatten(1).float() / 255
        labels = torch.from_numpy(data["labels"]).long()

    def error(method: str, options: dict[str, float], seed: int, validate: bool) -> float:
        told = "-".join(f"{key}{value:g}" for key, value in options.items())
        stage = "validation" if validate else "test"
        name = f"{method.replace(' + ', '-')}-{told}-{stage}-{chosen.epochs}epochs-seed{seed}"
        result = stored(
            chosen.out, name,
            lambda: run(images, labels, method, options, seed, validate, chosen.epochs),
        )  # fmt: skip
        return float(result["error"])

    heads = ("method", "published %", "measured %", "each seed", "settings", "validation %")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method in chosen.methods:
        validation = [
            (statistics.mean(error(method, o, s, True) for s in range(chosen.validation_seeds)), o)
            for o in settings(method)
        ]
        best = min(validation, key=lambda found: found[0])[1]
        errors = [error(method, best, seed, False) for seed in range(chosen.seeds)]
        published = PUBLISHED[method]
        deviation = statistics.stdev(errors) if len(errors) > 1 else 0.0
        lines.append(
            f"| {method} | {'-' if published is None else f'{published:.2f}'}"
            f" | {statistics.mean(errors):.2f} ± {deviation:.2f}"
            f" | {', '.join(f'{e:.2f}' for e in errors)}"
            f" | {', '.join(f'{key} {value:g}' for key, value in best.items())}"
            f" | {', '.join(f'{e:.1f}' for e, _ in validation)} |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()

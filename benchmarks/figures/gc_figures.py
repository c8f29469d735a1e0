"""Draw Figures 3 and 4 of the GC paper for a ResNet-50 on CIFAR-10, a smaller setting than theirs.

Trains SGD with and without GC, from the same initial weights and on the same batches. A finished
run is a file in OUT and is not repeated; with other options, pass another OUT.

    python benchmarks/figures/gc_figures.py --data imagefolder:cifar10.tar.xz --out runs/gc_figures
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import zeromean
from zeromean.cli.output import one_line_errors
from zeromean.diagnose.result import BLUE, FONT_SIZE, ORANGE
from zeromean.errors import ZeromeanError
from zeromean.study.data.load import load_dataset
from zeromean.study.networks.build import build

METHODS = {"plain": ORANGE, "gc": BLUE}
LABELS = {"plain": "without GC", "gc": "with GC"}
SEED = 0
# A quarter of the customary rate for batches of 128.
RATE = 0.025


def main() -> None:
    """Train the missing runs, then draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="data set, as for zeromean compare")
    parser.add_argument("--out", type=Path, required=True, help="folder for finished runs")
    parser.add_argument("--pictures", type=Path, default=Path("docs/figures"))
    parser.add_argument("--images", type=int, default=2500, help="number of training images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with one_line_errors():
        make_figures(arguments)


def make_figures(arguments: argparse.Namespace) -> None:
    """Train the missing runs, then draw.

    Raises:
        ZeromeanError: A finished run has other options.
    """
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    files = {method: arguments.out / f"{method}.pt" for method in METHODS}
    names = ("data", "images", "epochs", "batch_size")
    settings = {name: getattr(arguments, name) for name in names}
    runs = {method: torch.load(file) for method, file in files.items() if file.exists()}
    for method, run in runs.items():
        if run.get("settings") != settings:
            raise ZeromeanError(
                f"{files[method]} was trained with other options, {run.get('settings')}",
                "Pass another --out",
            )
    missing = [method for method in METHODS if method not in runs]
    if missing:
        images, labels = training_images(arguments.data, arguments.images)
    for method in missing:
        run = train(method, images, labels, arguments.epochs, arguments.batch_size)
        runs[method] = {**run, "settings": settings}
        partial = arguments.out / f"{method}.partial"
        torch.save(runs[method], partial)
        partial.rename(files[method])
    runs = {method: runs[method] for method in METHODS}
    for method, run in runs.items():
        loss = run["losses"][-20:].mean()
        print(f"{method}: {run['scale']}, {run['seconds']:.0f} s, final loss {loss:.3f}")
    figure_3(runs).savefig(arguments.pictures / "gc_figure3.png", dpi=110)
    figure_4(runs).savefig(arguments.pictures / "gc_figure4.png", dpi=110)


def training_images(data: str, count: int) -> tuple[Tensor, Tensor]:
    """Return random training images with standardized channels, and their labels."""
    dataset = load_dataset(data)
    chosen = torch.randperm(
        len(dataset.train_labels), generator=torch.Generator().manual_seed(SEED)
    )[:count]
    images = dataset.train_images[chosen].float()
    mean, deviation = images.mean((0, 2, 3), True), images.std((0, 2, 3), keepdim=True)
    images = ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)
    return images, dataset.train_labels[chosen]


def network(channels: int, classes: int) -> nn.Module:
    """Return the network, equal for both runs."""
    model = build("resnet50", channels, 32, classes, SEED)
    return model.to(memory_format=torch.channels_last)


def train(method: str, images: Tensor, labels: Tensor, epochs: int, batch_size: int) -> dict:
    """Train one run and measure its gradients after each step."""
    model = network(images.shape[1], int(labels.max()) + 1)
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    if method == "gc":
        zeromean.centralize(optimizer, model)
    steps = len(labels) // batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * epochs)
    generator = torch.Generator().manual_seed(SEED)
    losses, began = [], time.perf_counter()
    with zeromean.diagnose.gradient_norms(optimizer, model=model) as norms:
        for epoch in range(epochs):
            order = torch.randperm(len(labels), generator=generator)
            for batch in order[: steps * batch_size].view(-1, batch_size):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            print(
                f"{method}, epoch {epoch + 1} of {epochs}: {np.mean(losses[-steps:]):.3f}",
                flush=True,
            )
    return {
        "shape": (images.shape[1], int(labels.max()) + 1),
        "start": start,
        "end": model.state_dict(),
        "layers": list(norms.layers),
        # What the optimizer steps with: centered with GC.
        "norm": torch.from_numpy(norms.projected_norm if method == "gc" else norms.norm),
        "largest": torch.from_numpy(norms.projected_largest if method == "gc" else norms.largest),
        "removed": torch.from_numpy(norms.removed),
        "losses": torch.tensor(losses),
        "seconds": time.perf_counter() - began,
        "scale": f"{len(labels)} images, {epochs} epochs, batches of {batch_size}",
    }


def figure_3(runs: dict[str, dict]) -> Figure:
    """Draw the absolute means of the weight vectors of all convolutions, from first to last."""
    figure = Figure(figsize=(6.4, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, sharey=True)
    first = np.empty(0)
    states = (
        ("initialization", runs["plain"]["start"]),
        ("trained without GC", runs["plain"]["end"]),
        ("trained with GC", runs["gc"]["end"]),
    )
    for one, (title, state) in zip(axes, states, strict=True):
        model = network(*runs["plain"]["shape"])
        model.load_state_dict(state)
        means = zeromean.diagnose.weight_means(model, layers="conv")
        print(f"{title}: {means.answer}")
        means.plot([one])
        found = np.concatenate(means.means)
        first = found if one is axes[0] else first
        print(f"largest change of a mean since the start: {np.abs(found - first).max():.2g}")
        one.set_title(title, fontsize=FONT_SIZE)
        if one is not axes[-1]:
            one.set_xlabel("")
    return figure


def figure_4(runs: dict[str, dict]) -> Figure:
    """Draw norm and largest entry of the gradients of the first convolution and the last layer."""
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for column, (layer, title) in enumerate(((0, "first convolution"), (-1, "linear layer"))):
        for row, measure in enumerate(("norm", "largest")):
            one = axes[row, column]
            for method, color in METHODS.items():
                values = runs[method][measure][:, layer]
                one.plot(values, ".", markersize=3, color=color, label=LABELS[method])
                half = values[len(values) // 2 :].median()
                print(f"{title}, {measure}, {LABELS[method]}: second half's median {half:.3g}")
            one.set_yscale("log")
            one.spines[["top", "right"]].set_visible(False)
            one.tick_params(labelsize=10)
            if row == 0:
                one.set_title(title, fontsize=FONT_SIZE)
        axes[1, column].set_xlabel("step", fontsize=FONT_SIZE)
    axes[0, 0].set_ylabel("norm of the gradient", fontsize=FONT_SIZE)
    axes[1, 0].set_ylabel("largest entry", fontsize=FONT_SIZE)
    axes[0, 0].legend(frameon=False, fontsize=10, markerscale=3)
    removed = np.nanmedian(runs["plain"]["removed"].numpy(), 0)
    for name, share in zip(runs["plain"]["layers"], removed, strict=True):
        print(f"energy that centering would remove, {name}: {share:.2%}")
    return figure


if __name__ == "__main__":
    main()

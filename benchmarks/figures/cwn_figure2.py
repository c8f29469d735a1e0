"""Draw Figure 2 of the CWN paper for Yale-B: plain, NNN, WN and CWN.

Trains the paper's MLP per method and seed and measures mean and variance of the pre-activations of
layers 1 and 2, the conditioning of the Fisher information of the second last layer, and the
training loss. A finished run is a file in OUT and is not repeated; with other data, pass another
OUT.

    python benchmarks/figures/cwn_figure2.py --data yaleb_32x32.npz --out runs/cwn_figure2

``--lr plain=0.1 nnn=0.1 wn=0.2 cwn=0.2 --seeds 5`` gives each method a rate of its own and draws
the mean of five seeds with their range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import zeromean
from zeromean.cli.output import one_line_errors
from zeromean.diagnose.result import BLUE, FONT_SIZE, GRAY, GREEN, ORANGE
from zeromean.errors import ZeromeanError

WIDTHS = (1024, 128, 64, 48, 48, 38)
LINEAR = tuple(range(0, 2 * len(WIDTHS) - 2, 2))
BATCH = 32
COLORS = {"plain": GRAY, "nnn": GREEN, "wn": ORANGE, "cwn": BLUE}
Curves = dict[str, list[float]]


def main() -> None:
    """Train the missing runs, then draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=".npz with images and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for finished runs")
    parser.add_argument("--pictures", type=Path, default=Path("docs/figures"))
    parser.add_argument(
        "--lr", nargs="+", default=["0.1"], help="one learning rate, or METHOD=RATE for each method"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--every", type=int, default=1, help="epochs between measurements")
    parser.add_argument("--images", type=int, default=5, help="images per class to measure on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with one_line_errors():
        make_figure(arguments)


def make_figure(arguments: argparse.Namespace) -> None:
    """Train the missing runs, then draw."""
    rates = learning_rates(arguments.lr)
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    with np.load(arguments.data) as data:
        images = torch.from_numpy(data["images"]).flatten(1).float() / 255
        labels = torch.from_numpy(data["labels"]).long()
    measured = f"every{arguments.every}-images{arguments.images}"
    runs: dict[str, list[Curves]] = {}
    for method, seed in itertools.product(COLORS, range(arguments.seeds)):
        trained = f"{method}-lr{rates[method]:g}-{arguments.epochs}epochs-seed{seed}"
        file = arguments.out / f"{trained}-{measured}.json"
        if not file.exists():
            found = run(method, seed, rates[method], images, labels, arguments)
            file.with_suffix(".tmp").write_text(json.dumps(found))
            file.with_suffix(".tmp").rename(file)
        runs.setdefault(method, []).append(json.loads(file.read_text()))
    draw(runs).savefig(arguments.pictures / "cwn_figure2.png", dpi=110)
    for method, found in runs.items():
        last = {key: [one[key][-1] for one in found] for key in found[0] if key != "updates"}
        text = ", ".join(f"{key} {np.median(values):.3g}" for key, values in last.items())
        print(f"{method} at the end, median over seeds: {text}")


def learning_rates(words: list[str]) -> dict[str, float]:
    """Return the rate of each method."""
    try:
        if len(words) == 1 and "=" not in words[0]:
            return dict.fromkeys(COLORS, float(words[0]))
        rates = {method: float(rate) for method, _, rate in (word.partition("=") for word in words)}
    except ValueError as error:
        raise ZeromeanError(f"--lr is {' '.join(words)} ({error})", "Pass numbers") from error
    if rates.keys() != COLORS.keys():
        raise ZeromeanError(
            f"--lr has rates for {', '.join(rates)}",
            f"Pass one rate, or one for each of {', '.join(COLORS)}",
        )
    return rates


def network(method: str, seed: int) -> nn.Sequential:
    """Return the paper's MLP with gains of 1; all methods start from the weights of the seed."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    if method in ("wn", "cwn"):
        zeromean.reparametrize(model, method, init="unit")
    elif method == "nnn":
        zeromean.reparametrize(model, "nnn", every=100, eps=0.1)
    return model


def run(
    method: str, seed: int, lr: float, images: Tensor, labels: Tensor, arguments: Any
) -> Curves:
    """Train on all but ten images per class, as the paper does, and measure on some of them."""
    generator = torch.Generator().manual_seed(seed)
    train, measured = [], []
    for label in labels.unique():
        own = torch.nonzero(labels == label).flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        train.append(own[10:])
        measured.append(own[10 : 10 + arguments.images])
    kept, some = torch.cat(train), torch.cat(measured)
    x = (images - images[kept].mean(0)) / images[kept].std(0)
    model = network(method, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    found: Curves = {}
    updates, began = 0, time.perf_counter()
    for epoch in range(arguments.epochs + 1):
        if epoch % arguments.every == 0:
            for key, value in measure(model, x[some], labels[some]).items():
                found.setdefault(key, []).append(value)
            found.setdefault("loss", []).append(mean_loss(model, x[kept], labels[kept]))
            found.setdefault("updates", []).append(updates)
            seconds, loss = time.perf_counter() - began, found["loss"][-1]
            print(
                f"{method}, seed {seed}, {updates} updates, {seconds:.0f} s, {loss:.4f}", flush=True
            )
        if epoch == arguments.epochs:
            break
        for batch in kept[torch.randperm(len(kept), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
            updates += 1
    return found


def measure(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the curves of the figure except the loss."""
    before = zeromean.diagnose.preactivations(model, (x, y))
    second_last = str(LINEAR[-2])
    found = {
        "mean 1": before.mean[0],
        "mean 2": before.mean[1],
        "variance 1": before.variance[0],
        "variance 2": before.variance[1],
    }
    fisher = zeromean.diagnose.fisher_condition(model, (x, y), [second_last])
    found["pseudo-condition"] = fisher.pseudo_condition[0]
    found["damped condition"] = fisher.damped_condition[0]
    found["rank"] = fisher.rank[0]
    return {key: float(value) for key, value in found.items()}


@torch.no_grad()
def mean_loss(model: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """Return the mean loss of these images."""
    return float(F.cross_entropy(model(x), y))


def draw(runs: dict[str, list[Curves]]) -> Figure:
    """Return the figure: two panels per row, one line per method with the range over seeds."""
    figure = Figure(figsize=(7.2, 10), layout="constrained")
    panels = (
        ("mean 1", "mean of pre-activations, layer 1", False),
        ("mean 2", "mean of pre-activations, layer 2", False),
        ("variance 1", "variance, layer 1", True),
        ("variance 2", "variance, layer 2", True),
        ("pseudo-condition", "pseudo-condition number of F", True),
        ("damped condition", "damped condition number of F", True),
        ("rank", "eigenvalues of F above the threshold", False),
        ("loss", "training loss", True),
    )
    for axes, (key, title, logarithmic) in zip(
        figure.subplots(4, 2, sharex=True).flat, panels, strict=True
    ):
        for method, found in runs.items():
            updates, values = found[0]["updates"], np.array([one[key] for one in found])
            axes.plot(updates, values.mean(0), color=COLORS[method], label=method)
            axes.fill_between(
                updates, values.min(0), values.max(0), color=COLORS[method], alpha=0.2, linewidth=0
            )
        axes.set_title(title, fontsize=FONT_SIZE)
        axes.spines[["top", "right"]].set_visible(False)
        if logarithmic:
            axes.set_yscale("log")
    for axes in figure.axes[-2:]:
        axes.set_xlabel("updates", fontsize=FONT_SIZE)
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        lines, names, loc="outside upper center", ncols=4, frameon=False, fontsize=FONT_SIZE
    )
    return figure


if __name__ == "__main__":
    main()

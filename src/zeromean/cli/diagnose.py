"""``zeromean diagnose``: one page on what centering does in a trained model."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeromean.errors import ZeromeanError

if TYPE_CHECKING:
    from torch import Tensor

    from zeromean.study.data.dataset import Dataset


def diagnose(
    checkpoint: Annotated[
        Path, typer.Argument(help="A state_dict, or a training script's checkpoint with one.")
    ],
    model: Annotated[str, typer.Option(help="module:factory, a function that makes the model.")],
    data: Annotated[
        str,
        typer.Option(
            help="Images, as zeromean compare takes them: digits, npz:FILE, imagefolder:DIR, ..."
        ),
    ],
    samples: Annotated[int, typer.Option(help="Training images, chosen at random.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.")] = 64,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("zeromean-diagnose.html"),
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, ...")] = "cpu",
) -> None:
    """Write one HTML page with every diagnostic of a trained model.

    Weight means, gradients before and after centering, pre-activations, the response to intensity,
    Fisher conditioning and sharpness, for a classifier of images.
    """
    command = shlex.join(
        (
            *("zeromean", "diagnose", str(checkpoint), "--model", model, "--data", data),
            *("--samples", str(samples), "--batch-size", str(batch_size)),
            *("--out", str(out), "--device", device),
        )
    )
    for option, number in (("--samples", samples), ("--batch-size", batch_size)):
        if number < 1:
            raise ZeromeanError(f"{option} {number}", "1 or more", f"raise {option}")
    import torch
    from rich.console import Console

    from zeromean.cli.checkpoint import load_weights, read_checkpoint
    from zeromean.cli.factory import make_model
    from zeromean.diagnose.page import prepare_folder, sections, write
    from zeromean.study.data.load import load_dataset
    from zeromean.study.tasks.load import check_device

    read = read_checkpoint(checkpoint)
    network = make_model(model)
    load_weights(network, read, checkpoint)
    dataset = load_dataset(data)
    images, labels = _chosen(dataset, samples)
    check_device(device)
    network.to(device).eval()
    _try(network, images[:1], len(dataset.classes), model)
    prepare_folder(out)
    parts = (torch.split(images, batch_size), torch.split(labels, batch_size))
    batches = list(zip(*parts, strict=True))
    console = Console(stderr=True)
    found = []
    try:
        with console.status("") as status:
            for section in sections(network, batches, status.update):
                found.append(section)
                print(f"{section.title}: {section.answer}", flush=True)
    except KeyboardInterrupt:
        print("zeromean: interrupted; no page written", file=sys.stderr)
        raise typer.Exit(130) from None
    trained = sum(parameter.numel() for parameter in network.parameters())
    facts = {
        "Checkpoint": str(checkpoint),
        "Model": f"{model}, {trained:,} parameters",
        "Centralized": read.centering,
        "Data": f"{data}: {dataset.describe()}",
        "Samples": f"{len(labels)} of the training images at random, {batch_size} a batch",
        "Preparation": "each channel standardized by the training images; no augmentation",
        "Loss": "cross-entropy",
        "Device": f"{device}, torch {torch.__version__}",
    }
    write(out, f"What centering does in {checkpoint.name}", found, facts, command)
    print(f"\n{out}")


def _chosen(dataset: Dataset, samples: int) -> tuple[Tensor, Tensor]:
    """Training images at random, standardized as ``zeromean compare`` does, and their labels."""
    import torch

    from zeromean.study.data.disk_images import split
    from zeromean.study.tasks.preprocessing import channel_moments, standardize

    order = torch.randperm(len(dataset.train_labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:samples]
    (images,) = split(dataset.train_images[chosen], len(chosen))
    mean, deviation = channel_moments(dataset.train_images)
    return standardize(images, mean, deviation), dataset.train_labels[chosen]


def _try(network: Any, images: Tensor, classes: int, model: str) -> None:
    """One forward pass: the model is the user's, and so is whatever it raises."""
    import torch

    device = next((parameter.device for parameter in network.parameters()), "cpu")
    wanted = f"a model of images of {'x'.join(map(str, images.shape[1:]))}, batch first"
    fix = "make a model for these images, or name its --data"
    try:
        with torch.no_grad():
            output = network(images.to(device))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ZeromeanError(f"--model {model}, which fails with {reason}", wanted, fix) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] < classes:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ZeromeanError(
            f"--model {model} with an output of {got}",
            f"logits of shape (images, {classes})",
            "return the logits of the data's classes",
        )

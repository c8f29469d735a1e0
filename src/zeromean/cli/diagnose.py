"""``zeromean diagnose``: write a page that shows what centering does in a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeromean.cli.models import FORMS, networks
from zeromean.cli.options import Device
from zeromean.cli.output import INTERRUPTED, echo, refuse
from zeromean.cli.typed import typed_command
from zeromean.errors import ZeromeanError

if TYPE_CHECKING:
    from torch import Tensor

    from zeromean.study.data.dataset import Dataset


def diagnose(
    checkpoint: Annotated[
        Path, typer.Argument(help="A state_dict, or a checkpoint that contains one.")
    ],
    context: typer.Context,
    model: Annotated[str, typer.Option(help=f"{FORMS} or one of {networks()}.")],
    data: Annotated[
        str,
        typer.Option(
            help="Images, as for zeromean compare: digits, npz:FILE, imagefolder:DIR, ..."
        ),
    ],
    samples: Annotated[int, typer.Option(help="Number of training images, drawn at random.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 64,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("zeromean-diagnose.html"),
    device: Device = "cpu",
) -> None:
    """Write one HTML page with every diagnostic of a trained model.

    The model is a classifier of images. The page shows weight means, gradients before and after
    centering, pre-activations, the response to intensity, Fisher conditioning and sharpness.
    """
    for option, number in (("--samples", samples), ("--batch-size", batch_size)):
        if number < 1:
            raise ZeromeanError(f"{option} is {number}; at least 1 is needed", f"Raise {option}")
    import torch
    from rich.console import Console

    from zeromean.cli.checkpoint import load_weights, read_checkpoint
    from zeromean.cli.models import make_model
    from zeromean.diagnose.page import prepare_folder, sections, write
    from zeromean.study.data.load import load_dataset
    from zeromean.study.tasks.load import check_device

    read = read_checkpoint(checkpoint)
    dataset = load_dataset(data)
    images, labels = _sample(dataset, samples)
    network = make_model(model, (images.shape[1], images.shape[2], len(dataset.classes)))
    load_weights(network, read, checkpoint)
    check_device(device)
    network.to(device).eval()
    _check_output(network, images[:1], len(dataset.classes), model)
    prepare_folder(out)
    parts = (torch.split(images, batch_size), torch.split(labels, batch_size))
    batches = list(zip(*parts, strict=True))
    console = Console(stderr=True)
    found = []
    try:
        with console.status("") as status:
            for section in sections(network, batches, status.update):
                found.append(section)
                echo(f"{section.title}: {section.answer}")
    except KeyboardInterrupt:
        refuse("interrupted; no page was written", INTERRUPTED)
    size = sum(parameter.numel() for parameter in network.parameters())
    facts = {
        "Checkpoint": str(checkpoint),
        "Model": f"{model}, {size:,} parameters",
        "Centralized": read.centering,
        "Data": f"{data}: {dataset.describe()}",
        "Samples": f"{len(labels)} random training images, {batch_size} per batch",
        "Preprocessing": "each channel standardized by the training images; no augmentation",
        "Loss": "cross-entropy",
        "Device": f"{device}, torch {torch.__version__}",
    }
    title = f"What centering does in {checkpoint.name}"
    write(out, title, found, facts, typed_command(context))
    echo(f"\n{out}")


def _sample(dataset: Dataset, samples: int) -> tuple[Tensor, Tensor]:
    """Draw training images, standardized as in ``zeromean compare``, and their labels."""
    import torch

    from zeromean.study.data.disk_images import split
    from zeromean.study.tasks.preprocessing import channel_moments, standardize

    order = torch.randperm(len(dataset.train_labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:samples]
    (images,) = split(dataset.train_images[chosen], len(chosen))
    mean, deviation = channel_moments(dataset.train_images)
    return standardize(images, mean, deviation), dataset.train_labels[chosen]


def _check_output(network: Any, images: Tensor, classes: int, model: str) -> None:
    """Try one forward pass; turn whatever the user's model raises into one line."""
    import torch

    device = next((parameter.device for parameter in network.parameters()), "cpu")
    try:
        with torch.no_grad():
            output = network(images.to(device))
    except Exception as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise ZeromeanError(
            f"--model {model} failed on images of {shape} with {type(error).__name__}: {error}",
            "Use a model for these images, or the --data that it was made for",
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] < classes:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ZeromeanError(
            f"--model {model} returned {got}; logits of shape (images, {classes}) are needed",
            "Return the logits of the data's classes",
        )

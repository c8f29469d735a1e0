"""From what ``--model`` names to its plan: a timm model, a factory's, or a checkpoint's shapes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeromean.cli.checkpoint import read_checkpoint
from zeromean.cli.factory import make_model
from zeromean.errors import ZeromeanError
from zeromean.model import explain, owners_by_shape
from zeromean.plan import Plan, make_plan

ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def plan_of(name: str, layers: Any, embeddings: bool) -> tuple[Plan, str]:
    """The plan, and a word of doubt where layers are not known.

    Args:
        name: What ``--model`` says.
        layers, embeddings: As in :func:`zeromean.centralize`.

    Raises:
        ZeromeanError: It names nothing that can be explained, or an option has no effect.
    """
    if Path(name).is_file() or (":" not in name and name.endswith(ENDINGS)):
        return _by_shapes(Path(name), layers, embeddings)
    model = _timm(name) if name.startswith("timm:") else make_model(name)
    return explain(model, layers=layers, embeddings=embeddings), ""


def _timm(name: str) -> Any:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ZeromeanError(
            f"--model {name} where timm cannot be imported ({error})",
            "timm, and the torchvision that it needs",
            "pip install timm, or pass --model module:factory",
        ) from error
    try:
        return timm.create_model(name.removeprefix("timm:"), pretrained=False)
    except Exception as error:  # whatever the model's own code raises
        raise ZeromeanError(
            f"--model {name}, which timm does not make ({error})",
            "a name that timm.list_models() knows",
            "look it up there",
        ) from error


def _by_shapes(path: Path, layers: Any, embeddings: bool) -> tuple[Plan, str]:
    if embeddings:
        raise ZeromeanError(
            f"--embeddings with {path}, whose shapes do not tell an embedding",
            "a model",
            "leave --embeddings out, or pass --model module:factory",
        )
    if path.suffix == ".safetensors":
        tensors = _safetensors(path)
    else:
        weights = read_checkpoint(path).weights
        tensors = {name: x for name, x in weights.items() if x.is_floating_point()}
    doubt = (
        f"{path} holds shapes alone: transposed convolutions, embeddings, position embeddings and"
        " tied weights may be told of wrongly; --model module:factory knows the layers"
    )
    return make_plan(owners_by_shape(tensors.items()), layers=layers), doubt


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Floating-point tensors of the file's shapes, without its numbers."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ZeromeanError(
            f"--model {path} where safetensors is not installed",
            "the package that reads it",
            "pip install safetensors",
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {
                name: one.get_shape()
                for name, one in slices.items()
                if one.get_dtype().startswith(("F", "BF"))
            }
    except (OSError, SafetensorError) as error:
        raise ZeromeanError(
            f"--model {path}, which cannot be read ({error})",
            "a file in the safetensors format",
            "check the path",
        ) from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

"""Turn the name of a model on the command line into the model or its plan."""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.centralization.explain import explain
from zeromean.cli.checkpoint import read_checkpoint
from zeromean.errors import ZeromeanError
from zeromean.model import owners_by_shape
from zeromean.plan import Plan, make_plan
from zeromean.user_function import load_function

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
FORMS = "module:factory, file.py:factory, timm:NAME"
# Channels, side in pixels and classes of the data that a network was designed for, if not those of
# CIFAR-10.
INPUTS = {"mlp": (1, 8, 10), "cnn": (1, 8, 10), "horses": (3, 300, 2), "mlp-yaleb": (1, 32, 38),
          "mlp-svhn": (1, 32, 10), "googlenet-imagenet": (3, 224, 1000)}  # fmt: skip
CHARACTERS = 96


def names() -> list[str]:
    """Return the names of the built-in networks; none without the extra "study"."""
    try:
        from zeromean.study.networks.build import NETWORKS
        from zeromean.study.networks.language_models import TEXT_NETWORKS
    except (ImportError, ZeromeanError):
        return []
    return [*NETWORKS, *TEXT_NETWORKS]


def networks() -> str:
    """Return the names of the built-in networks as text, or what they need."""
    return ", ".join(names()) or "a built-in network (with zeromean[study])"


def plan_of(name: str, layers: Any, embeddings: bool) -> tuple[Plan, str]:
    """Return the plan of a model, and a warning if its layers are unknown.

    Args:
        name: Name of a built-in network, ``timm:NAME``, ``module:factory``, ``file.py:factory`` or
            the path of a checkpoint.
        layers, embeddings: See :func:`zeromean.centralize`.

    Raises:
        ZeromeanError: The name has none of these forms, or an option has no effect.
    """
    if name.endswith(CHECKPOINTS) or (Path(name).is_file() and not name.endswith(".py")):
        return _plan_of_checkpoint(Path(name), layers, embeddings)
    model = make_model(name, forms=f"{FORMS}, a checkpoint file")
    return explain(model, layers=layers, embeddings=embeddings), ""


def make_model(
    name: str, images: tuple[int, int, int] | None = None, forms: str = FORMS
) -> nn.Module:
    """Make the model of that name.

    Args:
        name: See :func:`plan_of`, except for checkpoints.
        images: Channels, side in pixels and number of classes, for built-in networks (default:
            those that the network was designed for).
        forms: Forms of a name that an error lists.
    """
    if name in names():
        return _built_in(name, images)
    if name.startswith("timm:"):
        return _timm(name, images)
    return _call_factory(name, forms)


def _built_in(name: str, images: tuple[int, int, int] | None) -> nn.Module:
    from zeromean.study.networks.build import NETWORKS
    from zeromean.study.networks.language_models import TEXT_NETWORKS

    if name in TEXT_NETWORKS:
        return TEXT_NETWORKS[name](CHARACTERS)
    return NETWORKS[name](*(images or INPUTS.get(name, (3, 32, 10))))


def _timm(name: str, images: tuple[int, int, int] | None) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision does not match torch
        raise ZeromeanError(
            f"the model {name} needs timm, which cannot be imported ({error})",
            "Run: pip install timm, with a torchvision that matches this torch; or pass"
            " module:factory",
        ) from error
    options = {} if images is None else {"in_chans": images[0], "num_classes": images[2]}
    try:
        model: nn.Module = timm.create_model(name[len("timm:") :], pretrained=False, **options)
    except (Exception, SystemExit) as error:  # whatever the model's own code raises
        raise ZeromeanError(
            f"timm cannot make the model {name} ({error})", "Use a name from timm.list_models()"
        ) from error
    return model


def _call_factory(text: str, forms: str) -> nn.Module:
    place, colon, factory = text.rpartition(":")
    if not (place and colon and factory):
        raise ZeromeanError(
            f"the model {text!r} is not one of {forms}, {networks()}",
            f"Pass {text}:NAME, with a function in it that returns the model"
            if text.endswith(".py")
            else "Use one of these, such as models.py:resnet for a function in a file"
            + ("" if names() else "; for a built-in network, run: pip install 'zeromean[study]'"),
        )
    try:
        # What the user's code prints is not part of the output, such as that of --json.
        with redirect_stdout(sys.stderr):
            model = load_function(text)()
    except ZeromeanError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ZeromeanError(
            f"the model {text} failed with {type(error).__name__}: {error}",
            f"Correct {factory}, a function without arguments that returns a torch.nn.Module",
        ) from error
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"{text} returned {type(model).__name__}, not a torch.nn.Module", "Return the model"
        )
    return model


def _plan_of_checkpoint(path: Path, layers: Any, embeddings: bool) -> tuple[Plan, str]:
    if embeddings:
        raise ZeromeanError(
            f"--embeddings has no effect on {path}: shapes do not show which parameters are"
            " embeddings",
            "Leave --embeddings out, or pass module:factory",
        )
    if path.suffix == ".safetensors":
        tensors = _safetensors(path)
    else:
        weights = read_checkpoint(path).weights
        tensors = {name: x for name, x in weights.items() if x.is_floating_point()}
    warning = (
        f"{path} contains shapes alone, so transposed convolutions, embeddings, position"
        " embeddings and tied weights may be shown wrongly; pass module:factory for exact answers"
    )
    return make_plan(owners_by_shape(tensors.items()), layers=layers), warning


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Return floating-point tensors with the file's shapes and without its numbers."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ZeromeanError(
            f"{path} needs safetensors, which is not installed", "Run: pip install safetensors"
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
        raise ZeromeanError(f"{path} cannot be read ({error})", "Check the path") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

"""The batches and the loss that a diagnostic uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zeromean.errors import ZeromeanError
from zeromean.measurement.random_state import random_state_kept

Pair: TypeAlias = tuple[Any, Any]
Batches: TypeAlias = Pair | Iterable[Pair]
Loss: TypeAlias = Callable[[Any, Any], Tensor]

_FIX = "Pass one (input, target) pair, a list of pairs, or a DataLoader of them"


def pairs(batches: Batches, model: nn.Module) -> list[Pair]:
    """Return the batches as a list on the model's device, for several passes over them.

    An input is a tensor, or a mapping of keyword arguments.

    Raises:
        ZeromeanError: ``batches`` has another form, or contains no batch or an empty one.
    """
    if isinstance(batches, tuple | list) and len(batches) == 2 and _is_input(batches[0]):
        batches = [(batches[0], batches[1])]
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise ZeromeanError(f"batches is {type(batches).__name__}, not (input, target) pairs", _FIX)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    kept = []
    with random_state_kept(model):  # a DataLoader draws from torch, its transforms from others too
        drawn = list(batches)
    for pair in drawn:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ZeromeanError(
                f"a batch is {type(pair).__name__}, not an (input, target) pair", _FIX
            )
        if not _is_input(pair[0]):
            raise ZeromeanError(
                f"the input of a batch is {type(pair[0]).__name__}, not a tensor with a dimension"
                " of samples, or a mapping of tensors",
                "Convert it, for example by torch.as_tensor",
            )
        if not count(pair[0]):
            raise ZeromeanError("a batch is empty", "Leave it out")
        kept.append((_moved(pair[0], device), _moved(pair[1], device)))
    if not kept:
        raise ZeromeanError("there is no batch", _FIX)
    return kept


def run(model: Callable[..., Any], inputs: Any) -> Any:
    """Return the model's output for a tensor or a mapping of keyword arguments."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def count(inputs: Any) -> int:
    """Return the number of samples in a batch's input."""
    values = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return next(len(value) for value in values if value.ndim)


def cross_entropy(output: Any, target: Any) -> Tensor:
    """Compute the default loss: cross-entropy of logits with classes or class probabilities.

    Raises:
        ZeromeanError: The output or the target is something else, such as a regression target.
    """
    check_classes(output, target, axis=1, option="loss", example="torch.nn.functional.mse_loss")
    return F.cross_entropy(output, target if target.is_floating_point() else target.long())


def check_classes(output: Any, target: Any, *, axis: int, option: str, example: str) -> None:
    """Raise unless the output contains logits of classes, and the target, if any, classes.

    The error recommends ``option``, which describes other outputs.
    """
    fix = f"Pass {option}=, such as {option}={example}"
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[axis] < 2:
        shape = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
        raise ZeromeanError(
            f"the default {option} takes logits of two or more classes along axis {axis}, but the"
            f" output is a {type(output).__name__} {shape}".rstrip(),
            fix,
        )
    if target is None and option != "loss":
        return
    if not isinstance(target, Tensor) or not _are_classes(target, output, axis):
        found = (
            f"{target.dtype} of shape {tuple(target.shape)}"
            if isinstance(target, Tensor)
            else type(target).__name__
        )
        raise ZeromeanError(
            f"the default {option} takes class indices or class probabilities as targets, but the"
            f" target is {found}",
            fix,
        )


def _are_classes(target: Tensor, output: Tensor, axis: int) -> bool:
    if not target.is_floating_point():
        shape = list(output.shape)
        del shape[axis]
        indices = target.dtype != torch.bool and not target.is_complex()
        return indices and list(target.shape) == shape
    if target.shape != output.shape or bool((target < 0).any()):
        return False
    totals = target.sum(axis)
    return torch.allclose(totals, torch.ones_like(totals), atol=1e-2)


def _is_input(value: Any) -> bool:
    if isinstance(value, Mapping):
        entries = list(value.values())
        return all(isinstance(x, Tensor) for x in entries) and any(x.ndim for x in entries)
    return isinstance(value, Tensor) and value.ndim > 0


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value

"""What a diagnostic is fed with: one (input, target) pair, or any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from zeromean.errors import ZeromeanError

Pair: TypeAlias = tuple[Any, Any]
Batches: TypeAlias = Pair | Iterable[Pair]
Loss: TypeAlias = Callable[[Any, Any], Tensor]

_WANTED = "one (input, target) pair or an iterable of such pairs"
_FIX = "pass (input, target), a list of pairs or a DataLoader"


def pairs(batches: Batches, model: nn.Module) -> list[Pair]:
    """The batches as a list, on the model's device.

    They are kept, because a diagnostic may go through them often and a shuffling loader would give
    others each time.

    Args:
        batches: One (input, target) pair, or an iterable of pairs. An input is a tensor, or a
            mapping of keyword arguments.
        model: Whose device the tensors go to.

    Raises:
        ZeromeanError: It is something else, or holds no batch or an empty one.
    """
    if isinstance(batches, tuple | list) and len(batches) == 2 and _is_input(batches[0]):
        batches = [(batches[0], batches[1])]
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise ZeromeanError(f"batches of type {type(batches).__name__}", _WANTED, _FIX)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    kept = []
    for pair in batches:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and _is_input(pair[0])):
            raise ZeromeanError(f"a batch of type {type(pair).__name__}", _WANTED, _FIX)
        if not count(pair[0]):
            raise ZeromeanError("an empty batch", "at least one sample a batch", "leave it out")
        kept.append((_moved(pair[0], device), _moved(pair[1], device)))
    if not kept:
        raise ZeromeanError("no batch", _WANTED, _FIX)
    return kept


def run(model: Callable[..., Any], inputs: Any) -> Any:
    """The model's output for one input: a tensor, or a mapping of keyword arguments."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def count(inputs: Any) -> int:
    """The number of samples in a batch's input."""
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    return len(first)


def _is_input(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(entry, Tensor) for entry in value.values())
    return isinstance(value, Tensor) and value.ndim > 0


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value

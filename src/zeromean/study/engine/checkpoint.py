"""The state of a run under way, in a file that is whole at any moment."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces the file in one stroke.

    Raises:
        ZeromeanError: It cannot be written, such as on a full disk; the old one stays.
    """
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(exist_ok=True)  # who ended with fewer seeds has tidied up
        torch.save(state, new)
        os.replace(new, path)
    # Torch's writer turns a full disk into a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise ZeromeanError(
            f"{path}, which cannot be written ({error})",
            "a disk with room",
            "make room and give the same command again",
        ) from error


def load(path: Path) -> dict[str, Any] | None:
    """The last state that was saved; None where there is none, or none that can be read."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        return None  # a power cut may break it: the run begins anew, and ends the same
    return state


def remove(path: Path) -> None:
    """Forgets the state of a run that is kept elsewhere now."""
    path.unlink(missing_ok=True)


def on_cpu(state: Any) -> Any:
    """The state in memory that every machine has."""
    return map_tensors(Tensor.cpu, state)


def map_tensors(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The state with each tensor changed, in the order in which they are met."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        changed = copy.copy(state)  # with what a network's has beside its entries
        for key, value in state.items():  # update would add to a Counter, which a schedule has
            changed[key] = map_tensors(change, value)
        return changed
    if isinstance(state, list | tuple):
        return type(state)(map_tensors(change, value) for value in state)
    return state

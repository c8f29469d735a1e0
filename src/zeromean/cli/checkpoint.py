"""From a checkpoint file to the weights in it, and to what its optimizer remembers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.centralization.fingerprint import KEY
from zeromean.errors import ZeromeanError

# Under which training scripts and Lightning keep the model's state_dict.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "weights")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        weights: The model's state_dict.
        optimizers: How many optimizers' states are in it.
        centralized: How those were centralized, as their param groups remember it; None if not.
    """

    weights: dict[str, Tensor]
    optimizers: int
    centralized: str | None

    @property
    def centering(self) -> str:
        """A sentence on whether the run was centralized, as far as the file tells."""
        if not self.optimizers:
            return "unknown: the checkpoint holds no optimizer"
        return self.centralized or "no: its optimizer was not centralized"


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a ``state_dict``, or a dictionary that holds one under a usual name.

    Raises:
        ZeromeanError: The file is missing, unreadable, or holds neither.
    """
    wanted = f"a state_dict, or a dictionary with one under {', '.join(WEIGHT_KEYS)}"
    if not path.is_file():
        raise ZeromeanError(f"checkpoint {path}, which is no file", wanted, "check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ZeromeanError(
            f"checkpoint {path}, which cannot be read safely ({reason})",
            wanted,
            "save it with torch.save(model.state_dict(), path)",
        ) from error
    for weights in (content, *(_get(content, key) for key in WEIGHT_KEYS)):
        if _is_state_dict(weights):
            states = list(_optimizer_states(content))
            told = dict.fromkeys(
                str(group[KEY]) for state in states for group in state["param_groups"]
                if KEY in group
            )  # fmt: skip
            return Checkpoint(dict(weights), len(states), " | ".join(told) or None)
    is_table = isinstance(content, Mapping)
    got = f"keys {', '.join(map(str, content))}" if is_table else type(content).__name__
    raise ZeromeanError(
        f"checkpoint {path} with {got}", wanted, "save it with torch.save(model.state_dict(), path)"
    )


def load_weights(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Loads them; a wrapper's prefix (``module.``, ``model.``) may stand before every name.

    Raises:
        ZeromeanError: They are another model's.
    """
    weights = checkpoint.weights
    heads = {name.partition(".")[0] for name in weights}
    if not set(weights) & set(model.state_dict()) and len(heads) == 1:
        (head,) = heads
        weights = {name.removeprefix(f"{head}."): value for name, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ZeromeanError(
            f"checkpoint {path}, which does not fit --model ({reason[:300]})",
            "weights of the model that the factory makes",
            "make the model that was trained, re-parameterized where it was",
        ) from error


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(entry, Tensor) for entry in value.values())
    )


def _optimizer_states(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every optimizer's state_dict in a checkpoint."""
    if isinstance(value, Mapping):
        groups = value.get("param_groups")
        if isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
            yield value
            return
    if isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _optimizer_states(entry)

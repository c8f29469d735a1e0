"""Read the weights of a checkpoint file, and whether its optimizer was centralized."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from zeromean.centralization.fingerprint import KEY
from zeromean.errors import ZeromeanError

# Keys under which training scripts and Lightning keep the model's state_dict.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "weights")
SAVE = "Save it with torch.save(model.state_dict(), path)"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Args:
        weights: State dict of the model.
        optimizers: Number of optimizers whose state the file contains.
        centralized: Options with which these were centralized, from their param groups; None if
            they were not.
    """

    weights: dict[str, Tensor]
    optimizers: int
    centralized: str | None

    @property
    def centering(self) -> str:
        """A phrase that says whether the run was centralized, as far as the file shows it."""
        if not self.optimizers:
            return "unknown: the checkpoint contains no optimizer"
        return self.centralized or "no: its optimizer was not centralized"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``state_dict``, or a dictionary that contains one under a usual name.

    Raises:
        ZeromeanError: The file is missing or unreadable, or contains neither.
    """
    if not path.is_file():
        raise ZeromeanError(f"the checkpoint {path} is not a file", "Check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle can raise almost any error.
        raise ZeromeanError(f"the checkpoint {path} {_problem(error)}", SAVE) from error
    for weights in (content, *(_get(content, key) for key in WEIGHT_KEYS)):
        if _is_state_dict(weights):
            states = list(_optimizer_states(content))
            groups = [group for state in states for group in state["param_groups"]]
            marks = dict.fromkeys(str(group[KEY]) for group in groups if KEY in group)
            return Checkpoint(weights, len(states), " | ".join(marks) or None)
    is_table = isinstance(content, Mapping)
    found = f"the keys {', '.join(map(str, content))}" if is_table else type(content).__name__
    raise ZeromeanError(
        f"the checkpoint {path} contains {found}, but neither a state_dict nor one under"
        f" {', '.join(WEIGHT_KEYS)}",
        SAVE,
    )


def _problem(error: Exception) -> str:
    """Return why torch cannot load a file, without torch's advice to run the code in it."""
    pickled = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if pickled:
        return f"holds a pickled object of {pickled[1]}, and loading that would run its code"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"is damaged, or not a file of torch.save ({type(error).__name__})"


def load_weights(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Load the weights, whose names may share one prefix, such as ``module.`` or ``model.``.

    Raises:
        ZeromeanError: The weights do not fit the model.
    """
    weights = checkpoint.weights
    heads = {name.partition(".")[0] for name in weights}
    if not set(weights) & set(model.state_dict()) and len(heads) == 1:
        consume_prefix_in_state_dict_if_present(weights, f"{heads.pop()}.")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ZeromeanError(
            f"the checkpoint {path} does not fit --model ({reason[:300]})",
            "Pass the model that was trained, re-parametrized if it was",
        ) from error


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(x, Tensor) for name, x in value.items())
    )


def _optimizer_states(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the state_dict of every optimizer in a checkpoint."""
    if isinstance(value, Mapping):
        groups = value.get("param_groups")
        if isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
            yield value
            return
    if isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _optimizer_states(entry)

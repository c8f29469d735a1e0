"""Save and load the state of an unfinished run, in a file that is complete at any moment."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError

MAGIC = b"zeromean checkpoint 2\n"
HEADER = len(MAGIC) + hashlib.sha256().digest_size


class Checkpoint(NamedTuple):
    """A state that a run can be continued from.

    Args:
        turns: Number of reports that the run has made.
        state: The state of its last report.
    """

    turns: int
    state: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file in one step.

    Raises:
        ZeromeanError: It cannot be written, such as on a full disk; the old one stays.
    """
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        torch.save(tuple(checkpoint), buffer)
        with new.open("wb") as file:
            file.write(MAGIC + hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ZeromeanError(
            f"{path} cannot be written ({error})",
            "Make room and give the same command again; finished runs are stored",
        ) from error


def load(path: Path) -> Checkpoint | None:
    """Return the last checkpoint; None if there is none, or if the file is damaged.

    Without its checkpoint, a run begins again, and ends the same.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest = hashlib.sha256(memoryview(content)[HEADER:]).digest()
    if content[:HEADER] != MAGIC + digest:
        return None
    try:
        turns, state = torch.load(
            io.BytesIO(memoryview(content)[HEADER:]), map_location="cpu", weights_only=True
        )
    except (pickle.UnpicklingError, RuntimeError):  # code, or another version of torch
        return None
    return Checkpoint(turns, state)


def to_cpu(state: Any) -> Any:
    """Return a state whose tensors are on the CPU."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        copy = state.copy()  # keeps the attributes of a network's state
        for key, value in state.items():  # update would add to the Counter of a scheduler
            copy[key] = to_cpu(value)
        return copy
    if isinstance(state, list | tuple):
        return type(state)(map(to_cpu, state))
    return state

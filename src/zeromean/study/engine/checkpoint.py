"""Save and load the state of an unfinished run, in a file that is replaced as a whole."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError

MAGIC = b"zeromean checkpoint 2\n"
HEADER = len(MAGIC) + hashlib.sha256().digest_size


class Checkpoint(NamedTuple):
    """The state of a run, from which it can continue.

    Args:
        turns: Number of reports that the run has made.
        state: State of the run at its last report.
    """

    turns: int
    state: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to a new file, then replace the old file by it.

    Raises:
        ZeromeanError: The file cannot be written, such as on a full disk; the old file stays.
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
        with suppress(OSError):  # the folder itself may be the problem
            new.unlink()
        raise ZeromeanError(
            f"{path} cannot be written ({error})",
            "Free disk space or correct the folder, and give the same command again; finished runs"
            " are stored",
        ) from error


def load(path: Path) -> Checkpoint | None:
    """Return the last checkpoint; None if there is none, or if the file is damaged.

    A run without a checkpoint starts again and ends with the same result.
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
    # The file contains code, or was written by another version of torch.
    except (pickle.UnpicklingError, RuntimeError):
        return None
    return Checkpoint(turns, state)


def to_cpu(state: Any) -> Any:
    """Return a state whose tensors are on the CPU."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        # copy keeps attributes, such as the _metadata of a network's state; state.copy() does not.
        moved = copy.copy(state)
        # update would add to the counts of a scheduler's Counter.
        for key, value in state.items():
            moved[key] = to_cpu(value)
        return moved
    if isinstance(state, list | tuple):
        return type(state)(map(to_cpu, state))
    return state

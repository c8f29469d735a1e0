"""The state of a run under way, in a file that is whole at any moment."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from zeromean.errors import ZeromeanError


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces the file in one stroke.

    Raises:
        ZeromeanError: It cannot be written, such as on a full disk; the old one stays.
    """
    new = path.with_suffix(".new")
    try:
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
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        return None  # a power cut may break it: the run begins anew, and ends the same
    return state


def remove(path: Path) -> None:
    """Forgets the state of a run that is kept elsewhere now."""
    path.unlink(missing_ok=True)

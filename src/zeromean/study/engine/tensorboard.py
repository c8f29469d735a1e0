"""Write curves for TensorBoard while a study runs."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from zeromean.errors import needs_extra
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.records import FINAL, Epoch, Key, Run

# File systems allow 255 bytes.
MAX_NAME_BYTES = 200


class TensorBoard(Watcher):
    """Write one log per run, and pass everything on to another watcher.

    Args:
        folder: Folder of the logs.
        other: The other watcher.
    """

    def __init__(self, folder: Path, other: Watcher) -> None:
        # TensorBoard would import TensorFlow if it is installed. That takes seconds, and the
        # process aborts when torch then loads Triton, which has another LLVM.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        with needs_extra("tensorboard", "logs for TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self._make = SummaryWriter
        self._folder = folder
        self._other = other
        self._writers: dict[Key, Any] = {}

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self._other.on_epoch(key, epoch)
        if key not in self._writers:
            self._writers[key] = self._make(str(self._folder / _folder_name(key)))
        for name, value in {**epoch.metrics, "seconds": epoch.seconds}.items():
            self._writers[key].add_scalar(name, value, epoch.number)
        self._writers[key].flush()

    def on_run(self, run: Run) -> None:
        self._other.on_run(run)
        writer = self._writers.pop(run.key, None)
        if writer is not None:
            writer.close()


def _folder_name(key: Key) -> str:
    """Return the name of a run's log; labels can contain paths of any length."""
    trial = () if key.trial == FINAL else (f"trial {key.trial}",)
    text = "-".join((key.task, key.optimizer, key.method, *trial, f"seed {key.seed}"))
    name = re.sub(r'[<>:"/\\|?*]', "_", text).encode()
    if len(name) > MAX_NAME_BYTES:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{digest}-".encode() + name[-MAX_NAME_BYTES:]
    return name.decode(errors="ignore")

"""Who is told of epochs and runs as they end."""

from __future__ import annotations

from typing import Protocol

from zeromean.study.run import Epoch, Key, Run


class Watcher(Protocol):
    """Is told what happens; an exception that it raises ends the study's process."""

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """An epoch of a run under way ended."""

    def on_run(self, run: Run) -> None:
        """A run ended and was kept."""


class Nobody:
    """Watches nothing."""

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """Nothing."""

    def on_run(self, run: Run) -> None:
        """Nothing."""

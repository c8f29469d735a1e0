"""Callbacks while a study runs."""

from __future__ import annotations

from typing import Protocol

from zeromean.study.spec.records import Epoch, Key, Run


class Watcher(Protocol):
    """Callbacks of a study; an exception that one raises ends the study."""

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """Receive an epoch that ended."""

    def on_run(self, run: Run) -> None:
        """Receive a run that ended and was stored."""


class Silent:
    """A watcher that does nothing."""

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """Do nothing."""

    def on_run(self, run: Run) -> None:
        """Do nothing."""

"""Callbacks while a study runs."""

from __future__ import annotations

from zeromean.study.spec.records import Epoch, Key, Run


class Watcher:
    """Callbacks of a study, which do nothing here; an exception that one raises ends the study."""

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """Receive an epoch that ended."""

    def on_run(self, run: Run) -> None:
        """Receive a run that ended and was stored."""

"""Where samples go: one kind of destination a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from zeromean.errors import ZeromeanError
from zeromean.monitoring.sample import Sample
from zeromean.monitoring.sinks import files, function, hugging_face, lightning, tensorboard

To: TypeAlias = Any
"""A destination, or a list of them."""

# Each tells whether a destination is of its kind, and makes a function of a sample of it. The
# order matters: a Trainer has a log_metrics of another kind, and loggers may be callable.
_KINDS = (files, tensorboard, hugging_face, lightning, function)


def sinks_of(to: To) -> list[Callable[[Sample], None]]:
    """What writes samples to each destination.

    Raises:
        ZeromeanError: One of them is nothing to write to, or there is none.
    """
    destinations = list(to) if isinstance(to, list | tuple) else [to]
    if not destinations:
        raise ZeromeanError("to=[]", "somewhere for samples to go", 'pass to="monitor.csv"')
    return [_sink_of(destination) for destination in destinations]


def _sink_of(to: Any) -> Callable[[Sample], None]:
    for kind in _KINDS:
        if kind.accepts(to):
            write: Callable[[Sample], None] = kind.sink(to)
            return write
    raise ZeromeanError(
        f"to={to!r}",
        "a SummaryWriter, a path ending in .csv or .jsonl, a Lightning logger, a Hugging Face"
        " Trainer, a function of a sample, or a list of these",
        "pass one of them",
    )

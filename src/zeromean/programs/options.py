"""The options that ``zeromean run`` passes to the processes of a program."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

# The boot file reads the same environment variable.
VARIABLE = "ZEROMEAN_RUN"


@dataclass(frozen=True)
class Options:
    """What to do in every process of a program.

    Args:
        records: Folder that the processes write their records to.
        method: "gc" centralizes, "zscore" standardizes each weight vector's gradient, "plain"
            observes only.
        at, layers, embeddings, scope, weight_decay: As in :func:`zeromean.centralize`.
        skip_refused: Whether the program continues if an optimizer cannot be centralized.
        seed: Seed for ``random``, NumPy and torch at start, or None to leave them alone.
        shift_seeds: Number to add to the seeds that the program sets for those, or None.
        rehearse: With "plain", the methods of later runs as (at, layers, scope): the program stops
            if one of them would be refused.
    """

    records: str
    method: Literal["plain", "gc", "zscore"] = "gc"
    at: Literal["gradient", "update", "backward"] = "gradient"
    layers: Literal["all", "conv", "linear"] = "all"
    embeddings: bool = False
    scope: Literal["vector", "tensor"] = "vector"
    weight_decay: Literal["auto", "coupled", "decoupled"] = "auto"
    skip_refused: bool = False
    seed: int | None = None
    shift_seeds: int | None = None
    rehearse: tuple[tuple[Any, Any, Any], ...] = ()

    def dumps(self) -> str:
        """The value of the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Options:
        """The options in the value of the environment variable."""
        return cls(**json.loads(text))

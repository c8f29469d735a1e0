"""How an optimizer centers, whoever makes it: hooks of its own, its own step, or nobody."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import nn
from torch.optim import Optimizer

from zeromean.centralization.centralize import handle_of
from zeromean.centralization.targets import Targets
from zeromean.class_lookup import is_a

_DROP_IN = "zeromean.optim.centered.Centered"


class Centering(NamedTuple):
    """What is centered and where.

    Args:
        at: "gradient", "update" or "backward"; None where nothing centers this optimizer.
        targets: What is centered, or would be.
    """

    at: str | None
    targets: Targets


def centering_of(optimizer: Optimizer, otherwise: Targets) -> Centering:
    """How an optimizer centers now.

    Args:
        optimizer: A centralized one, a drop-in, or any other.
        otherwise: The targets to tell of where it does not center.
    """
    handle = handle_of(optimizer)
    if handle is not None:
        return Centering(handle.options["at"], handle._targets)
    if is_a(type(optimizer), _DROP_IN):
        drop_in = cast(Any, optimizer)
        if drop_in._targets is not None:
            return Centering(drop_in._at, drop_in._targets)
    return Centering(None, otherwise)


def targets_without_centering(optimizer: Optimizer, model: nn.Module) -> Targets:
    """What :func:`zeromean.centralize` would center, by its defaults."""
    return Targets(optimizer, model, "all", False, "vector")

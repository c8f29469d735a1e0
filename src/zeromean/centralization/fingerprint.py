"""How an optimizer is centralized, as one line of text in its param groups.

Hooks do not outlive a copy or a checkpoint; plain text in the param groups does, so that forgetting
to attach again shows.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from zeromean.errors import warn

KEY = "zeromean"


def describe(at: str, **options: Any) -> str:
    """One line that two centralizations share if they were asked for the same.

    Names no parameter, so that it stays the same under wrapping and resharding.
    """
    texts = {
        name: getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else value
        for name, value in options.items()
    }
    return ", ".join([f"at={at}", *(f"{name}={text}" for name, text in texts.items())])


def stamp(optimizer: Optimizer, text: str) -> None:
    """Write the text into every param group."""
    for group in optimizer.param_groups:
        group[KEY] = text


def erase(optimizer: Optimizer) -> None:
    """Take the text out of every param group."""
    for group in optimizer.param_groups:
        group.pop(KEY, None)


def read(optimizer: Optimizer) -> str | None:
    """The text in the param groups, or None; several, joined, where the groups disagree."""
    found = dict.fromkeys(group[KEY] for group in optimizer.param_groups if KEY in group)
    return " | ".join(found) or None


def warn_of_another(optimizer: Optimizer, text: str) -> None:
    """Warn if the param groups, copied or loaded, come from an optimizer centralized otherwise."""
    found = read(optimizer)
    if found not in (None, text):
        warn(
            f"the optimizer's state comes from one centralized with {found}, and this one is"
            f" centralized with {text}; pass the same options to go on as before"
        )

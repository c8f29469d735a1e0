"""The options of a centralized optimizer, stored as one line of text in its param groups.

Hooks do not survive a copy or a checkpoint, but text in the param groups does. It reveals that an
optimizer was centralized and has lost its hooks.
"""

from __future__ import annotations

from torch.optim import Optimizer

from zeromean.errors import warn

KEY = "zeromean"


def stamp(optimizer: Optimizer, text: str) -> None:
    """Write the text into every param group."""
    for group in optimizer.param_groups:
        group[KEY] = text


def erase(optimizer: Optimizer) -> None:
    """Remove the text from every param group."""
    for group in optimizer.param_groups:
        group.pop(KEY, None)


def read(optimizer: Optimizer) -> str | None:
    """Return the text in the param groups, or None; texts that differ are joined."""
    found = dict.fromkeys(group[KEY] for group in optimizer.param_groups if KEY in group)
    return " | ".join(found) or None


def warn_of_other_options(optimizer: Optimizer, text: str) -> None:
    """Warn if the param groups come from an optimizer that was centralized with other options."""
    found = read(optimizer)
    if found not in (None, text):
        warn(
            f"The optimizer's state comes from one that was centralized with {found}, but this one"
            f" is centralized with {text}. Pass the same options to continue the same training."
        )

"""Knowledge about classes, kept by qualified name so that nothing is imported to have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def qualified_name(cls: type) -> str:
    """``package.module.Class``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def nearest(table: Mapping[type | str, Value], cls: type) -> Value | None:
    """What the table holds for the nearest class in the MRO: a subclass is what its parent was."""
    for ancestor in cls.__mro__:
        for key in (ancestor, qualified_name(ancestor)):
            if key in table:
                return table[key]
    return None


def is_a(cls: type, name: str) -> bool:
    """Whether a class or one of its ancestors has this qualified name."""
    return any(qualified_name(ancestor) == name for ancestor in cls.__mro__)

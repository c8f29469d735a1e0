"""Look up classes by qualified name, so that no framework is imported to know its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def qualified_name(cls: type) -> str:
    """Return ``package.module.Class``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def nearest(table: Mapping[type | str, Value], cls: type) -> Value | None:
    """Return the entry of the nearest class in the MRO, so that a subclass counts as its parent."""
    for ancestor in cls.__mro__:
        for key in (ancestor, qualified_name(ancestor)):
            if key in table:
                return table[key]
    return None


def is_a(cls: type, name: str) -> bool:
    """Return whether a class or one of its ancestors has this qualified name."""
    return any(qualified_name(ancestor) == name for ancestor in cls.__mro__)

"""Keep a function out of the graphs that torch.compile builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eager(function: _Function) -> _Function:
    """Return the function as one that torch.compile does not trace.

    ``torch.compiler.disable`` loads the compiler at once, which takes a second; the decorator that
    torch uses for its own functions loads it at the first call.
    """
    disable = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    disabled: _Function = disable(function)
    return disabled

"""Keep a function out of compiled steps, which torch.compile then compiles around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eager(function: _Function) -> _Function:
    """Return the function as one that torch.compile does not trace.

    ``torch.compiler.disable`` loads the compiler at once, which takes a second; torch's own way
    loads it at the first call.
    """
    disable = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    disabled: _Function = disable(function)
    return disabled

"""Memory that an optimizer retains between steps: every tensor that is reachable from it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

from zeromean.bench.baselines import Baseline, Work


def retained_bytes(baseline: Baseline, work: Work) -> int:
    """Return the bytes of tensors after two steps, without weights and gradients."""
    running = baseline.start(work)
    assert running.optimizer is not None  # only optax has none
    running.step()
    running.step()
    own = {
        _address(tensor)
        for group in running.optimizer.param_groups
        for parameter in group["params"]
        for tensor in (parameter, parameter.grad)
    }
    storages = {_address(tensor): tensor for tensor in reachable_tensors(running.optimizer)}
    return sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in storages.items()
        if address not in own
    )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def reachable_tensors(holder: Any) -> Iterator[Tensor]:
    """Yield every tensor that an object holds through attributes, containers and hooks."""
    seen: dict[int, Any] = {}  # keeps the objects alive, so that their ids stay unique
    waiting = [holder]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, FunctionType):  # without its globals, which belong to its module
            waiting += [item.__closure__, item.__defaults__, item.__kwdefaults__, item.__dict__]
        else:
            waiting += gc.get_referents(item)

"""Memory that an optimizer keeps between steps: every tensor that can be reached from it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor

from zeromean.bench.contestants.contestant import Contestant
from zeromean.bench.work import Work


def beyond(contestant: Contestant, base: Contestant, work: Work) -> int:
    """How many bytes more of tensors ``contestant`` keeps after a step than ``base`` does.

    Weights and gradients do not count.
    """
    return kept(contestant, work) - kept(base, work)


def kept(contestant: Contestant, work: Work) -> int:
    """How many bytes of tensors a contestant keeps after two steps, weights and gradients apart."""
    running = contestant.start(work)
    if running.optimizer is None:
        raise TypeError(f"{contestant.name} has no optimizer to look into")
    running.step()
    running.step()
    own = {
        storage_of(tensor)
        for group in running.optimizer.param_groups
        for parameter in group["params"]
        for tensor in (parameter, parameter.grad)
    }
    storages = {storage_of(tensor): tensor for tensor in reachable(running.optimizer)}
    return sum(
        tensor.untyped_storage().nbytes()
        for storage, tensor in storages.items()
        if storage not in own
    )


def storage_of(tensor: Tensor) -> int:
    """Where its memory begins."""
    return tensor.untyped_storage().data_ptr()


def reachable(holder: Any) -> Iterator[Tensor]:
    """Every tensor that an object holds on to, through attributes, containers and hooks."""
    seen: dict[int, Any] = {}  # keeps the objects, so that no id is given twice
    waiting = [holder]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, MethodType):
            waiting += [thing.__self__, thing.__func__]
        elif isinstance(thing, FunctionType):  # its globals belong to its module
            waiting += [cell.cell_contents for cell in thing.__closure__ or ()]
        else:
            waiting += gc.get_referents(thing)

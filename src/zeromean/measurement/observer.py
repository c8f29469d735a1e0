"""Observation of an optimizer's steps by hooks that change nothing."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from zeromean.centralization.at_backward import WATCHERS
from zeromean.centralization.at_gradient import Arguments, wrap_closure
from zeromean.eager import eager
from zeromean.fan_in import FanIn


class StepObserver:
    """Calls functions around each step of an optimizer.

    Before a step, the observer's hook runs ahead of all others, so that it sees gradients that are
    not centered yet. After the step it runs behind all others, so that it sees the final weights.
    It therefore never runs between the hooks of ``zeromean.centralize`` and the step.

    Args:
        optimizer: Optimizer to observe. No reference to it is kept.
        begin: Function that is called before a step and returns whether to observe it.
        see_gradients: Function that is called as soon as the gradients of an observed step exist:
            before the step, or after the first evaluation of its closure.
        end: Function that is called after every step, with whether it was observed.
    """

    only_observes = True  # so that centralize can take over steps despite these hooks

    def __init__(
        self,
        optimizer: Optimizer,
        begin: Callable[[Optimizer], bool],
        see_gradients: Callable[[Optimizer], None],
        end: Callable[[Optimizer, bool], None],
    ) -> None:
        self._begin, self._see_gradients, self._end = begin, see_gradients, end
        self._inside = self._observed = self._seen = False
        self._depth = 0  # of the call stack in the step that is observed
        self._before = optimizer.register_step_pre_hook(self._before_step)
        _ordered(optimizer._optimizer_step_pre_hooks).move_to_end(self._before.id, last=False)
        self._after = optimizer.register_step_post_hook(self._after_step)

    def remove(self) -> None:
        """Stop observing. A second call does nothing."""
        self._before.remove()
        self._after.remove()

    @eager
    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        # super().step() runs the hooks again within the same step, in a deeper call. A step that
        # raised has left the flag set.
        if self._inside and _depth() > self._depth:
            return None
        _ordered(optimizer._optimizer_step_post_hooks).move_to_end(self._after.id)
        self._observed, self._seen = self._begin(optimizer), False
        wrapped = None
        if self._observed:
            # A closure computes the gradients inside step.
            wrapped = wrap_closure(args, kwargs, partial(self._run_closure, optimizer))
            if wrapped is None:
                self._see_gradients(optimizer)
        self._depth = _depth() if self._observed else 0
        self._inside = True  # last, because the functions above may raise, which ends the step
        return wrapped

    def _run_closure(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        try:
            loss = closure()
            if not self._seen:  # some optimizers evaluate a closure several times per step
                self._seen = True
                self._see_gradients(optimizer)
        except BaseException:
            self._inside = self._observed = False
            raise
        return loss

    @eager
    def _after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._inside:
            observed, self._inside, self._observed = self._observed, False, False
            self._end(optimizer, observed)


def _depth() -> int:
    """Return the number of frames in the call stack."""
    depth, frame = 0, sys._getframe().f_back
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def watch_backward(optimizer: Optimizer, watch: Callable[[Tensor, FanIn], None], on: bool) -> None:
    """Start or stop calling a function before at="backward" centers the gradient of a parameter.

    The optimizer may be centralized later.
    """
    watchers = WATCHERS.setdefault(optimizer, set())
    if on:
        watchers.add(watch)
    else:
        watchers.discard(watch)


def _ordered(hooks: Any) -> OrderedDict[int, Any]:
    """Return torch's hooks by id, whose order its API does not expose."""
    assert isinstance(hooks, OrderedDict)
    return hooks

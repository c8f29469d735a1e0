"""One line that watches a training: hooks around the optimizer's step, seldom at work."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean import fsdp1
from zeromean.centralization.at_backward import AtBackward
from zeromean.centralization.centering import Centering
from zeromean.centralization.centralize import centering_of, handle_of
from zeromean.centralization.validate import check_subjects
from zeromean.errors import ZeromeanError, warn
from zeromean.gc_options import GCOptions
from zeromean.monitoring.backward import Taken
from zeromean.monitoring.measurement import Measurement, means_of
from zeromean.monitoring.sample import Sample
from zeromean.monitoring.sinks import To, sinks_of


def monitor(
    optimizer: Optimizer,
    model: nn.Module,
    every: int = 50,
    *,
    to: To,
    first_step: int = 0,
) -> Monitor:
    r"""Watch a training: what centering takes from each gradient, and what the weights' means do.

    Every so many steps, for each layer: the gradient's norm, largest entry and mean before and
    after centering, the share :math:`1 - \|P g\|^2 / \|g\|^2` of its energy that centering takes
    away, the weight vectors' means and their drift from the start, and :math:`\|\Delta w\|/\|w\|`:
    see :class:`zeromean.monitoring.Layer`. Between samples a step costs a comparison more.

    The optimizer may be centralized, before or after this call, at any place; a drop-in of
    ``zeromean.optim``; or neither: then the numbers tell what centering would do. Numbers are those
    of the whole tensor under DistributedDataParallel, FSDP2 and tensor parallelism, and free of a
    ``GradScaler``'s scale; a step that it skips is not sampled, the next one is. Every rank has to
    call this; rank 0 writes.

    Args:
        optimizer: Whose steps are watched.
        model: The model whose parameters it updates, wrapped as it is trained.
        every: Steps from one sample to the next (default 50); the first step is sampled too.
        to: Where samples go: a TensorBoard ``SummaryWriter``; a path that ends in ``.csv`` or
            ``.jsonl``, appended to; a Lightning logger; a Hugging Face ``Trainer``; a function of a
            :class:`zeromean.monitoring.Sample`; or a list of these.
        first_step: The number of the next step, for a run that is resumed (default 0).

    Returns:
        A :class:`zeromean.monitoring.Monitor`: ``remove()`` ends it, ``last`` is its last sample.

    Raises:
        ZeromeanError: ``every`` is below 1, ``to`` is nothing to write to, or the optimizer, the
            model or both do not fit, such as FSDP1's flat shards.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> samples = []
        >>> monitor = zeromean.monitor(optimizer, model, every=1, to=samples.append)
        >>> _ = model.weight.data.fill_(1.0)
        >>> model(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
        >>> optimizer.step()
        >>> layer = samples[0].layers[0]
        >>> print(f"{layer.name}: {layer.removed:.2f} of the gradient is its mean")
        weight: 0.86 of the gradient is its mean

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Figs. 3 and 4.
    """
    optimizer = check_subjects(optimizer, model)
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            "no model to monitor", "the model that is trained", "call monitor(optimizer, model)"
        )
    for name, number, least in (("every", every, 1), ("first_step", first_step, 0)):
        if not isinstance(number, int) or number < least:
            raise ZeromeanError(f"{name}={number!r}", f"{least} or more", f"raise {name}")
    if any(map(fsdp1.is_flat, model.parameters())):
        raise ZeromeanError(
            "a model under FullyShardedDataParallel (FSDP1), whose flat shards have no rows",
            "whole rows, or shards that tell which rows they hold",
            "shard with fully_shard (FSDP2)",
        )
    return Monitor(optimizer, model, every, first_step, sinks_of(to))


class Monitor:
    """Watches an optimizer's steps, started by :func:`zeromean.monitor`; also a context.

    ``last`` is the last :class:`Sample`, on every rank; None before the first.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        every: int,
        first_step: int,
        write: list[Callable[[Sample], None]],
    ) -> None:
        self.last: Sample | None = None
        self._model = model
        self._every = every
        self._step = first_step
        self._next = first_step
        self._write = write
        self._optimizer = ref(optimizer)
        self._plain = Centering(optimizer, model, GCOptions())
        if not (centering_of(optimizer) or self._plain).plan.centered:
            warn(
                "nothing of this optimizer is or would be centered, so samples hold no layer: print"
                " zeromean.explain(model), which tells why for each parameter"
            )
        self._taken = Taken(model)
        self._under_way: _Step | None = None
        self._inside = False
        self._start: dict[Tensor, Tensor] = {}
        self._note_start(optimizer)
        before = optimizer.register_step_pre_hook(self._before_step)
        # First of all hooks, to see gradients before they are centered.
        _in_order(optimizer._optimizer_step_pre_hooks).move_to_end(before.id, last=False)
        self._after = optimizer.register_step_post_hook(self._after_step)
        self._hooks = (before, self._after)
        self._watch_backward(optimizer)

    def remove(self) -> None:
        """Stop watching. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        optimizer = self._optimizer()
        if optimizer is not None and (place := _backward_place(optimizer)) is not None:
            place.watch = None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # super().step() fires the hooks again inside: that is the same step.
        if self._inside or self._step != self._next or _skipped(optimizer):
            self._inside = True
            return None
        self._inside = True
        # Last of all hooks, to see weights whose means have been put back.
        _in_order(optimizer._optimizer_step_post_hooks).move_to_end(self._after.id)
        self._note_start(optimizer)
        self._under_way = step = _Step(optimizer, self._plain, self._taken)
        # A closure makes the gradients inside step.
        if len(args) > 1 and args[1] is not None:
            return (args[0], partial(self._run_closure, step, args[1]), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": partial(self._run_closure, step, kwargs["closure"])}
        step.see_gradients(optimizer)
        return None

    def _run_closure(self, step: _Step, closure: Callable[[], Any]) -> Any:
        try:
            loss = closure()
        except BaseException:
            self._under_way, self._inside = None, False
            raise
        optimizer = self._optimizer()
        if optimizer is not None and not step.seen:  # some evaluate several times in one step
            step.see_gradients(optimizer)
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._inside:
            return
        self._inside = False
        step, self._under_way = self._under_way, None
        number, self._step = self._step, self._step + 1
        if step is not None:
            self._next += self._every
        elif number == self._next:
            self._next += 1  # it was skipped
        if self._step == self._next:
            self._watch_backward(optimizer)
        elif step is not None and (place := _backward_place(optimizer)) is not None:
            place.watch = None
        if step is None:
            return
        self.last = step.finish(number, optimizer, self._model, self._start)
        # Last of all, for what writes may raise.
        if not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0:
            for write in self._write:
                write(self.last)

    def _watch_backward(self, optimizer: Optimizer) -> None:
        if (place := _backward_place(optimizer)) is not None:
            place.watch = self._taken.watch

    @torch.no_grad()
    def _note_start(self, optimizer: Optimizer) -> None:
        targets = (centering_of(optimizer) or self._plain).parameters(optimizer)
        new = [target for target in targets if target.parameter not in self._start]
        for target, means in zip(new, means_of(new), strict=True):
            self._start[target.parameter] = means


class _Step:
    """One sampled step under way."""

    def __init__(self, optimizer: Optimizer, plain: Centering, taken: Taken) -> None:
        centering = centering_of(optimizer)
        self.at = centering.options.at if centering else None
        self.seen = False
        self._taken = taken
        with torch.no_grad():
            self._measurement = Measurement((centering or plain).parameters(optimizer))

    @torch.no_grad()
    def see_gradients(self, optimizer: Optimizer) -> None:
        self.seen = True
        removed = self._taken.collect() if self.at == "backward" else None
        self._measurement.see_gradients(getattr(optimizer, "grad_scale", None), removed)

    @torch.no_grad()
    def finish(
        self,
        number: int,
        optimizer: Optimizer,
        model: nn.Module,
        start: Mapping[Tensor, Tensor],
    ) -> Sample:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        layers = self._measurement.finish(names, start)
        return Sample(number, type(optimizer).__name__, self.at, layers)


def _in_order(hooks: Any) -> OrderedDict[int, Any]:
    """Hooks by their ids: torch registers without a word on their order, as its modules have it."""
    assert isinstance(hooks, OrderedDict)
    return hooks


def _backward_place(optimizer: Optimizer) -> AtBackward | None:
    handle = handle_of(optimizer)
    place = handle._place if handle is not None else None
    return place if isinstance(place, AtBackward) else None


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler has found an overflow, and a fused step will do nothing."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)

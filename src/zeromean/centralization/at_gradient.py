"""at="gradient": the optimizer sees P(g), or P(g + lambda w) if its decay is coupled."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeromean import fsdp1
from zeromean.centralization.centering import CenteredParameter, Centering
from zeromean.centralization.optimizer_traits import unwrap
from zeromean.eager import eager
from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.kernels import Entry, center_, prepare_center
from zeromean.kernels.backends import CenterPart
from zeromean.kernels.prepared import RunCenter
from zeromean.kernels.tensor_memory import has_repeats
from zeromean.projection import vector_means
from zeromean.sharded import gradient_of, local_part

Closure = Callable[[], Any]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def wrap_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[Closure], Any]
) -> Arguments | None:
    """Return the arguments of a step, its closure called through ``run``; None without closure."""
    closure = closure_of(args, kwargs)
    return None if closure is None else replace_closure(args, kwargs, partial(run, closure))


def closure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Closure | None:
    """Return the closure in the arguments of a step; None if there is none."""
    return args[1] if len(args) > 1 else kwargs.get("closure")


def replace_closure(args: tuple[Any, ...], kwargs: dict[str, Any], closure: Closure) -> Arguments:
    """Return the arguments of a step with another closure."""
    if len(args) > 1:
        return (args[0], closure, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure}


class AtGradient:
    """Center every gradient in place before the optimizer reads it.

    Args:
        centering: Centering of the optimizer.
    """

    def __init__(self, centering: Centering) -> None:
        self._centering = centering
        self._ready: _Ready | None = None

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        """Center the gradients, or wrap the closure that computes them."""
        # A closure computes the gradients inside step, so they are centered when it returns. If
        # super().step() runs the hooks again, the closure is wrapped twice, and P P = P.
        wrapped = wrap_closure(args, kwargs, partial(self._run_closure, optimizer))
        if wrapped is None:
            self._center_gradients(optimizer)
        return wrapped

    def after_step(self, optimizer: Optimizer) -> None:
        """Do nothing."""

    def after_load(self, optimizer: Optimizer) -> None:
        """Warn if the loaded momentum is not zero-mean."""
        warn_of_momentum(optimizer, self._centering)

    def remove(self) -> None:
        """Forget what was prepared."""
        self._ready = None

    def _run_closure(self, optimizer: Optimizer, closure: Closure) -> Any:
        loss = closure()
        self._center_gradients(optimizer)
        return loss

    @eager
    @torch.no_grad()
    def _center_gradients(self, optimizer: Optimizer) -> None:
        centered = self._centering.parameters(optimizer)
        gradients: list[Any] = [entry.parameter.grad for entry in centered]
        present: Sequence[int] = range(len(centered))
        if id(None) in map(id, gradients):
            gradients = [gradient_of(entry.parameter, entry.fan_in) for entry in centered]
            present = [n for n, gradient in enumerate(gradients) if gradient is not None]
        refuse_graph(gradients)
        # The optimizer adds lambda w later, so the mean of lambda w is subtracted now. With a
        # gradient scaler a fused optimizer sees s g, so s lambda takes the place of lambda.
        traits = self._centering.traits
        decays = [traits.coupled_decay(optimizer, group) for group in optimizer.param_groups]
        decayed = any(decays)
        ready, calls = self._ready, None
        if ready is not None and ready.fits(centered, present, decayed, gradients):
            calls = ready.bind(gradients)
        if calls is None:
            refuse_shared(optimizer, self._centering)
            entries = [
                Entry(centered[n].parameter, centered[n].fan_in, {}, centered[n].group)
                for n in present
            ]
            parts = prepare_center(entries, [gradients[n] for n in present], decayed)
            ready = self._ready = _Ready(centered, present, decayed, parts)
            calls = ready.bind(gradients)
        assert calls is not None
        scale = getattr(optimizer, "grad_scale", None)
        factors = [decay * scale if decay and scale is not None else decay for decay in decays]
        for call in calls:
            call(factors)


def refuse_shared(
    optimizer: Optimizer, centering: Centering, written: Container[int] | None = None
) -> None:
    """Raise if centering in place would write to memory repeatedly, or change another gradient.

    Args:
        optimizer: The optimizer.
        centering: Its centering.
        written: The ids of parameters; gradients of others are not centered in place. None
            (default) for all.

    Raises:
        ZeromeanError: The gradient of a centered parameter is expanded, or shares its memory with
            the gradient of another parameter.
    """
    fan_ins = centering.fan_ins(optimizer)
    first: dict[int, Tensor] = {}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        gradient = parameter.grad
        if gradient is None or not gradient.numel():
            continue
        dense = gradient.layout is torch.strided
        # autograd may give views of one tensor to the weights of torch.stack(weights).sum(0).
        address = local_part(gradient).data_ptr() if dense else 0
        other = first.setdefault(address or id(gradient), parameter)
        if not any(
            fan_ins[p] is not None and (written is None or id(p) in written)
            for p in (parameter, other)
        ):
            continue
        expanded = dense and any(
            stride == 0 and size > 1
            for stride, size in zip(gradient.stride(), gradient.shape, strict=True)
        )
        if other is parameter and not expanded:
            continue
        name, name_of_other = (
            next(row.name for row in centering.plan if row.parameter is p)
            for p in (parameter, other)
        )
        raise ZeromeanError(
            f"the gradient of {name} is expanded, so its entries share memory, and centering"
            " in place would write to them repeatedly"
            if other is parameter
            else f"the gradients of {name_of_other} and {name} share memory, and centering one in"
            " place would change the other",
            "Assign a clone, or use zeromean.optim, which never writes to gradients",
        )


def refuse_graph(gradients: Sequence[Tensor | None]) -> None:
    """Raise if a gradient has a graph, which in-place centering would make wrong."""
    if any(gradient is not None and gradient.requires_grad for gradient in gradients):
        raise ZeromeanError(
            "a gradient has a graph (create_graph=True), and centering in place would change its"
            " value but not its graph",
            "Apply zeromean.center yourself, which autograd follows, or detach the gradients before"
            " step",
        )


class _Ready(NamedTuple):
    """A prepared centering, and the parameters and present gradients that it is valid for."""

    centered: list[CenteredParameter]
    present: Sequence[int]
    decayed: bool
    parts: list[CenterPart]

    def fits(
        self,
        centered: list[CenteredParameter],
        present: Sequence[int],
        decayed: bool,
        gradients: list[Any],
    ) -> bool:
        return (
            centered is self.centered
            and present == self.present
            and decayed == self.decayed
            # All gradients are different tensors; None may occur several times.
            and len({*map(id, gradients)}) == len(present) + (len(present) < len(gradients))
        )

    def bind(self, gradients: list[Any]) -> list[RunCenter] | None:
        """Return the centering of all gradients, or None if a tensor changed or two share memory.

        Each part compares its own gradients.
        """
        here = [gradients[n] for n in self.present]
        if len(self.parts) > 1 and has_repeats(
            x.data_ptr() for x in map(local_part, here) if x.layout is torch.strided
        ):
            return None
        calls = [center.bind([here[n] for n in indices]) for center, indices in self.parts]
        found = [call for call in calls if call is not None]
        return found if len(found) == len(calls) else None


@torch.no_grad()
def project_momentum(optimizer: Optimizer, centering: Centering) -> None:
    """Project the momentum buffers of earlier steps once.

    Raises:
        ZeromeanError: The optimizer has state, and its momentum buffers are not known, or one of
            them is quantized, has another shape, or is a flat shard.
    """
    state_of = unwrap(optimizer).state
    if not centering.traits.known and state_of:
        keys = sorted({key for state in state_of.values() for key in state})
        raise ZeromeanError(
            f"project_state=True needs to know which state of {type(optimizer).__name__}"
            f" ({', '.join(keys)}) is a running mean of the gradient, and zeromean does not know"
            " this optimizer",
            "Project those buffers with zeromean.center, or start with a new optimizer",
        )
    found = _momentum(optimizer, centering)
    for buffer in found:
        if not buffer.plain:
            raise ZeromeanError(
                f"project_state=True cannot project {buffer.key} of {type(optimizer).__name__}: a"
                f" buffer of {buffer.tensor.dtype} and shape {tuple(buffer.tensor.shape)} does not"
                " hold whole weight vectors",
                "Leave project_state out, or start with a new optimizer",
            )
    center_([buffer.tensor for buffer in found], [buffer.fan_in for buffer in found])


@torch.no_grad()
def warn_of_momentum(optimizer: Optimizer, centering: Centering) -> None:
    """Warn if momentum buffers of earlier steps are not zero-mean."""
    found = [buffer for buffer in _momentum(optimizer, centering) if buffer.plain]
    buffers = [buffer.tensor for buffer in found]
    means_of = vector_means(buffers, [buffer.fan_in for buffer in found])
    for buffer, means in zip(buffers, means_of, strict=True):
        # Rounding leaves about eps of the largest entry; the mean of earlier steps is far above.
        here = local_part(buffer)
        if here.numel() and means.abs().max() > 16 * torch.finfo(here.dtype).eps * here.abs().max():
            warn(
                "The momentum of earlier steps is not zero-mean and leaks into the next steps."
                " centralize(..., project_state=True) projects it once; call handle.remove() first"
                " if the optimizer is centralized already."
            )
            return


class _Momentum(NamedTuple):
    """A momentum buffer; not plain if it is quantized, has another shape, or is a flat shard."""

    key: str
    tensor: Tensor
    fan_in: FanIn
    plain: bool


def _momentum(optimizer: Optimizer, centering: Centering) -> list[_Momentum]:
    state_of = unwrap(optimizer).state
    found = []
    for _, parameter, fan_in in centering.parameters(optimizer):
        for key in centering.traits.momentum:
            buffer = state_of.get(parameter, {}).get(key)
            if buffer is not None:
                plain = buffer.is_floating_point() or buffer.is_complex()
                plain = plain and buffer.shape == parameter.shape
                # The fan-in of a flat shard of FSDP1 is that of the whole weight.
                plain = plain and not fsdp1.is_flat(parameter)
                found.append(_Momentum(key, buffer, fan_in, plain))
    return found

"""at="gradient": the optimizer sees P(g), or P(g + lambda w) where its decay is coupled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeromean.centralization.optimizer_traits import WeightDecay, coupled_decay, traits_of, unwrap
from zeromean.centralization.targets import Target, Targets
from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.kernels import Entry, center_, prepare_center
from zeromean.kernels.backends import Center, CenterPart
from zeromean.projection import vector_means
from zeromean.sharded import gradient_of, local_part

Closure = Callable[[], Any]


class AtGradient:
    """Centers every gradient before the optimizer reads it, in place.

    Args:
        targets: What to center.
        weight_decay: "auto", or how the optimizer's decay acts.
    """

    def __init__(self, targets: Targets, weight_decay: Literal["auto"] | WeightDecay) -> None:
        self._targets = targets
        self._weight_decay = weight_decay
        self._ready: _Ready | None = None

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # A closure makes the gradients inside step, so they are centered when it returns. Where
        # super().step() fires the hooks again the closure is wrapped twice; P P = P.
        if len(args) > 1 and args[1] is not None:
            return (args[0], partial(self._run_closure, optimizer, args[1]), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            closure = partial(self._run_closure, optimizer, kwargs["closure"])
            return args, {**kwargs, "closure": closure}
        self._center_gradients(optimizer)
        return None

    def after_step(self, optimizer: Optimizer) -> None:
        """Nothing is left to do."""

    def after_load(self, optimizer: Optimizer) -> None:
        warn_of_momentum(optimizer, self._targets)

    def remove(self) -> None:
        self._ready = None

    def _run_closure(self, optimizer: Optimizer, closure: Closure) -> Any:
        loss = closure()
        self._center_gradients(optimizer)
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _center_gradients(self, optimizer: Optimizer) -> None:
        targets = self._targets.of(optimizer)
        gradients: list[Any] = [target.parameter.grad for target in targets]
        present: Sequence[int] = range(len(targets))
        if id(None) in map(id, gradients):
            gradients = [gradient_of(target.parameter, target.fan_in) for target in targets]
            present = [n for n, gradient in enumerate(gradients) if gradient is not None]
        refuse_graph(gradients)
        # The optimizer adds lambda w later: the mean of that is taken away now. A fused optimizer
        # under a gradient scaler sees scaled gradients, s g, so there it is s lambda w that decays.
        decays = [coupled_decay(optimizer, g, self._weight_decay) for g in optimizer.param_groups]
        decayed = any(decays)
        if self._ready is None or not self._ready.is_valid(targets, present, decayed, gradients):
            self._refuse_shared([(targets[n].parameter, gradients[n]) for n in present])
            entries = [
                Entry(targets[n].parameter, targets[n].fan_in, {}, targets[n].group)
                for n in present
            ]
            parts = prepare_center(entries, [gradients[n] for n in present], decayed)
            self._ready = _Ready(targets, present, decayed, parts)
        scale = getattr(optimizer, "grad_scale", None)
        factors = [decay * scale if decay and scale is not None else decay for decay in decays]
        for center, found in self._ready.of(gradients):
            center.run(found, factors)

    def _refuse_shared(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Raise where what is written for one entry of a gradient would be read for another."""
        first: dict[int, Tensor] = {}
        for parameter, gradient in pairs:
            other = first.setdefault(id(gradient), parameter)
            shared = gradient.layout is torch.strided and any(
                stride == 0 and size > 1
                for stride, size in zip(gradient.stride(), gradient.shape, strict=True)
            )
            if other is parameter and not shared:
                continue
            name, name_of_other = (
                next(row.name for row in self._targets.plan if row.parameter is p)
                for p in (parameter, other)
            )
            raise ZeromeanError(
                f"an expanded gradient of {name}, whose entries share memory"
                if other is parameter
                else f"one tensor as the gradient of {name_of_other} and {name}",
                "memory of its own for each entry, because centering writes into it",
                "assign a clone, or use zeromean.optim, which writes into no gradient",
            )


def refuse_graph(gradients: Sequence[Tensor | None]) -> None:
    """Raise if a gradient has a graph, which would not follow what is written into it."""
    if any(gradient is not None and gradient.requires_grad for gradient in gradients):
        raise ZeromeanError(
            "a gradient has a graph (create_graph=True), and centering in place would change its"
            " value but not its graph",
            "Center it yourself by zeromean.center, which autograd follows, or detach the gradients"
            " before step",
        )


class _Ready(NamedTuple):
    """A centering made ready, and for what: targets, and which of them have a gradient."""

    targets: list[Target]
    present: Sequence[int]
    decayed: bool
    parts: list[CenterPart]

    def is_valid(
        self,
        targets: list[Target],
        present: Sequence[int],
        decayed: bool,
        gradients: list[Any],
    ) -> bool:
        return (
            targets is self.targets
            and present == self.present
            and decayed == self.decayed
            # Each a tensor of its own; None may stand for many.
            and len({*map(id, gradients)}) == len(present) + (len(present) < len(gradients))
            and all(center.is_valid(found) for center, found in self.of(gradients))
        )

    def of(self, gradients: list[Any]) -> list[tuple[Center, list[Tensor]]]:
        """Each part's own of the gradients of all targets."""
        here = [gradients[n] for n in self.present]
        return [(center, [here[n] for n in indices]) for center, indices in self.parts]


@torch.no_grad()
def project_momentum(optimizer: Optimizer, targets: Targets) -> None:
    """Project the running means of gradients from before, once.

    Raises:
        ZeromeanError: The optimizer has state, and nobody knows which of it is momentum.
    """
    state_of = unwrap(optimizer).state
    if traits_of(optimizer) is None and state_of:
        keys = sorted({key for state in state_of.values() for key in state})
        raise ZeromeanError(
            f"project_state=True with {type(optimizer).__name__}, an optimizer that zeromean does"
            f" not know, and its state {', '.join(keys)}",
            "to know which of its buffers are running means of the gradient",
            "project those with zeromean.center, or start the optimizer anew",
        )
    center_(*_momentum(optimizer, targets))


@torch.no_grad()
def warn_of_momentum(optimizer: Optimizer, targets: Targets) -> None:
    """Warn where running means of gradients from before are not zero-mean."""
    buffers, fan_ins = _momentum(optimizer, targets)
    for buffer, means in zip(buffers, vector_means(buffers, fan_ins), strict=True):
        # Rounding leaves about eps of the largest entry; a mean from before is far above.
        here = local_part(buffer)
        if here.numel() and means.abs().max() > 16 * torch.finfo(here.dtype).eps * here.abs().max():
            warn(
                "momentum from before is not zero-mean and leaks into the steps for a while;"
                " centralize(..., project_state=True), after handle.remove() where the optimizer is"
                " centralized already, projects it once"
            )
            return


def _momentum(optimizer: Optimizer, targets: Targets) -> tuple[list[Tensor], list[FanIn]]:
    traits, state_of = traits_of(optimizer), unwrap(optimizer).state
    found = [
        (buffer, fan_in)
        for _, parameter, fan_in in targets.of(optimizer)
        for key in (traits.momentum if traits else ())
        if (buffer := state_of.get(parameter, {}).get(key)) is not None
    ]
    return [buffer for buffer, _ in found], [fan_in for _, fan_in in found]

"""Make whole centered steps of SGD, Adam and AdamW by the kernels, for drop-ins and centralize."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import unwrap
from itertools import repeat
from operator import attrgetter, is_
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeromean.centralization.at_gradient import (
    Arguments,
    closure_of,
    refuse_shared,
    replace_closure,
)
from zeromean.centralization.centering import Centering
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import AdamRule, Entry, SGDRule, backend, prepare, reference
from zeromean.kernels.backends import Part
from zeromean.kernels.residuals import Residuals
from zeromean.kernels.step_spec import At, Kind, Rule
from zeromean.sharded import gradient_of

RuleOf = Callable[[dict[str, Any]], Rule]

_NOT_SERVED = "no compiled kernels serve its parameters"
_SCALED = "a gradient scaler passes its scale to the optimizer's fused step"


def sgd_rule(group: dict[str, Any], decoupled: bool = False) -> SGDRule:
    """Return the step that a param group of SGD asks for."""
    return SGDRule(
        _number(group["lr"]),
        float(group["momentum"]),
        float(group["dampening"]),
        group["nesterov"],
        float(group["weight_decay"]),
        decoupled,
        group["maximize"],
    )


def adam_rule(group: dict[str, Any]) -> AdamRule:
    """Return the step that a param group of Adam or AdamW asks for."""
    beta1, beta2 = group["betas"]
    return AdamRule(
        _number(group["lr"]),
        (_number(beta1), _number(beta2)),
        group["eps"],
        group["amsgrad"],
        float(group["weight_decay"]),
        group["decoupled_weight_decay"],
        group["maximize"],
    )


def _number(value: float | Tensor) -> float | Tensor:
    """Return a number for its kernel; one on a GPU stays there, so that the host need not wait."""
    return value if isinstance(value, Tensor) and not value.is_cpu else float(value)


class FusedStep:
    """Step all parameters of all groups at once, and center them in the same pass.

    Args:
        centering: Centering of the optimizer; None to center nothing.
        at: Whether the gradient or the whole update is centered.
        rule: Reads the step that a param group asks for.
        complete: Whether the reference steps what the compiled kernels do not serve (default True);
            otherwise such parameters are left alone.
    """

    def __init__(
        self, centering: Centering | None, at: At, rule: RuleOf, *, complete: bool = True
    ) -> None:
        self._centering, self._at, self._rule, self._complete = centering, at, rule, complete
        self.reset()

    def reset(self) -> None:
        """Forget the prepared step and the rounding errors, because a checkpoint was loaded."""
        self._ready: _Ready | None = None
        self._residuals = Residuals()

    def bind(self, optimizer: Optimizer) -> BoundStep:
        """Prepare one step, without writing to any weight.

        Raises:
            ZeromeanError: A tensor does not match its weight, or cannot be stepped.
        """
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        gradients = [*map(attrgetter("grad"), parameters)]
        waiting: list[Tensor] = []
        if any(map(is_, gradients, repeat(None))):
            fan_ins = self._fan_ins(optimizer)
            found = [(p, gradient_of(p, fan_ins.get(p))) for p in parameters]
            parameters = [p for p, gradient in found if gradient is not None]
            gradients = [gradient for _, gradient in found if gradient is not None]
            waiting = [p for p in parameters if p.grad is None]
        rules = [self._rule(group) for group in groups]
        shape = [(rule.kind, len(g["params"])) for rule, g in zip(rules, groups, strict=True)]
        ready, calls = self._ready, None
        if ready is not None and ready.fits(shape, parameters, waiting, optimizer.state):
            calls = ready.bind(gradients)
        if calls is None:
            ready = self._ready = self._prepare(optimizer, shape, parameters, waiting, gradients)
            calls = ready.bind(gradients)
        assert ready is not None
        assert calls is not None
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            _check_capture(optimizer, ready.parts)
        return BoundStep(calls, rules, ready.left)

    def _fan_ins(self, optimizer: Optimizer) -> Mapping[Tensor, FanIn | None]:
        if self._centering is None:
            return {}
        self._centering.before_step(optimizer)
        return self._centering.fan_ins(optimizer)

    def _prepare(
        self,
        optimizer: Optimizer,
        shape: list[tuple[Kind, int]],
        parameters: list[Tensor],
        waiting: list[Tensor],
        gradients: list[Tensor],
    ) -> _Ready:
        fan_ins = self._fan_ins(optimizer)
        groups: dict[Tensor, int] = {}
        for number, group in enumerate(optimizer.param_groups):
            self._refuse(optimizer, group)
            # torch's own class makes its state at the first step.
            is_sgd = isinstance(optimizer, torch.optim.SGD)
            lists: list[list[Tensor]] = [[] for _ in range(3 if is_sgd else 6)]
            optimizer._init_group(group, *lists)  # type: ignore[attr-defined]
            groups.update(dict.fromkeys(group["params"], number))
        without = {id(p) for p in waiting}
        entries = []
        for p in parameters:
            fan_in = fan_ins.get(p)
            residual = None
            if fan_in is not None and self._at == "update":
                residual = self._residuals.of(p, fan_in)
            state = optimizer.state.get(p, {})
            entries.append(Entry(p, fan_in, state, groups[p], residual, id(p) in without))
        parts = prepare([kind for kind, _ in shape], self._at, entries, gradients)
        # A parameter that is listed twice is left to torch, which steps it twice.
        unique = len({*map(id, parameters)}) == len(parameters)
        runs = [
            self._complete or (unique and not isinstance(part.step, reference.Step))
            for part in parts
        ]
        return _Ready(shape, parameters, waiting, [*optimizer.state.values()], parts, runs)

    def _refuse(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        name = type(optimizer).__name__
        if group["differentiable"]:
            raise ZeromeanError(
                f"{name} does not support differentiable=True: its kernels record no graph",
                f"Set differentiable=False, or use zeromean.center with torch.optim.{name}",
            )
        if self._complete and any(
            p.grad is not None and p.grad.layout is not torch.strided for p in group["params"]
        ):
            raise ZeromeanError(
                f"zeromean.optim.{name} supports dense gradients only, but one is sparse",
                f"Build the layer with sparse=False, or centralize torch.optim.{name} with layers="
                " that leave it out",
            )


class BoundStep(NamedTuple):
    """One step, ready to run; nothing else may touch the tensors before it runs."""

    calls: list[Callable[[Sequence[Rule]], None]]
    rules: list[Rule]
    left: Container[int]  # ids of the parameters with a gradient that it leaves to torch

    def run(self) -> None:
        """Make the step."""
        for call in self.calls:
            call(self.rules)


@dataclass(eq=False)
class _Ready:
    """A prepared step, and the param groups, parameters and state that it was prepared for."""

    shape: list[tuple[Kind, int]]  # per group: the kind of step and the number of parameters
    parameters: list[Tensor]
    waiting: list[Tensor]  # those of them without a gradient on this rank
    states: list[dict[str, Any]]
    parts: list[Part]
    runs: list[bool]  # per part: whether it is run, or only checked and left to torch

    def __post_init__(self) -> None:
        self.left = {
            id(self.parameters[n])
            for part, is_run in zip(self.parts, self.runs, strict=True)
            if not is_run
            for n in part.indices
        }

    def fits(
        self,
        shape: list[tuple[Kind, int]],
        parameters: Sequence[Tensor],
        waiting: Sequence[Tensor],
        state: dict[Tensor, dict[str, Any]],
    ) -> bool:
        return (
            shape == self.shape
            and len(parameters) == len(self.parameters)
            and len(waiting) == len(self.waiting)
            and len(state) == len(self.states)
            and all(map(is_, parameters, self.parameters))
            and all(map(is_, waiting, self.waiting))
            and all(map(is_, state.values(), self.states))
        )

    def bind(self, gradients: Sequence[Tensor]) -> list[Callable[[Sequence[Rule]], None]] | None:
        """Return the parts of the step along these gradients, or None if a tensor changed."""
        calls = [
            step.bind(
                gradients if len(indices) == len(gradients) else [gradients[i] for i in indices]
            )
            for step, indices in self.parts
        ]
        if any(call is None for call in calls):
            return None
        return [call for call, run in zip(calls, self.runs, strict=True) if run and call]


def _check_capture(optimizer: Optimizer, parts: list[Part]) -> None:
    name = type(optimizer).__name__
    if not all(group.get("capturable", True) for group in optimizer.param_groups):
        raise ZeromeanError(
            f"a step of {name} in a CUDA graph needs capturable=True in all param groups",
            f"Build it with {name}(..., capturable=True)",
        )
    if any(isinstance(part.step, reference.Step) for part in parts):
        raise ZeromeanError(
            "only Triton's kernels can be captured in a CUDA graph, and they serve float32, float64"
            " and bfloat16 parameters of the usual layouts",
            f"Centralize torch.optim.{name} with capturable=True and fused=False",
        )


class Place(Protocol):
    """A place where centering acts, before and after each step of the optimizer."""

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        """Act before the step; may return changed arguments."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Act after the step."""

    def after_load(self, optimizer: Optimizer) -> None:
        """Act after a checkpoint was loaded into the optimizer."""

    def remove(self) -> None:
        """Remove hooks from the parameters, and forget everything that was recorded."""


class TakenOver:
    """Make the optimizer's whole step by the kernels if it can, else center in two passes.

    A hook before the step makes it for all parameters that the compiled kernels serve. It then has
    torch step a stand-in for the optimizer that holds the other parameters only; these are centered
    in two passes.

    Args:
        centering: Centering of the optimizer.
        two_passes: The place that acts otherwise.
    """

    def __init__(self, centering: Centering, two_passes: Place) -> None:
        self._centering, self._two_passes = centering, two_passes
        self._at = cast(At, centering.options.at)
        self._step: FusedStep | None = None
        self._rest: Optimizer | None = None  # kept, because a compiled step is compiled for it
        self._centers_rest = False  # whether this step is centered in two passes, if only in part
        self._scaled = False  # whether the last step was; a scaler shows itself only during steps

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        """Make the step, or center the gradients.

        Raises:
            ZeromeanError: The step must be taken over, and cannot be.
        """
        reason = self.obstacle(optimizer)
        self._scaled = reason == _SCALED
        self._centers_rest = bool(reason)
        if reason:
            if self._centering.options.fused:
                raise _refusal(optimizer, reason)
            return self._two_passes.before_step(optimizer, args, kwargs)
        args, kwargs = _run_closure(args, kwargs)
        with torch.no_grad():
            return (self._take_over(optimizer), *args[1:]), kwargs

    def _take_over(self, optimizer: Optimizer) -> Optimizer:
        """Make the step, and return the stand-in that torch has to step."""
        if self._step is None:
            rule = sgd_rule if isinstance(optimizer, torch.optim.SGD) else adam_rule
            self._step = FusedStep(self._centering, self._at, rule, complete=False)
        step = self._step.bind(optimizer)
        if self._centering.options.fused and self._leaves_all():
            raise _refusal(optimizer, _NOT_SERVED)
        rest = self._stand_in(optimizer, step.left)
        self._centers_rest = bool(step.left)
        if step.left:  # nothing is written yet if one of these cannot be centered
            if self._at == "gradient":
                refuse_shared(optimizer, self._centering, step.left)
            self._two_passes.before_step(rest, (rest,), {})
        step.run()
        return rest

    def _stand_in(self, optimizer: Optimizer, left: Container[int]) -> Optimizer:
        """Return an optimizer without hooks that shares state and options and holds ``left``."""
        if self._rest is None:
            self._rest = object.__new__(type(optimizer))
        self._rest.__dict__ |= {
            **optimizer.__dict__,
            "param_groups": [
                {**group, "params": [p for p in group["params"] if id(p) in left]}
                for group in (optimizer.param_groups if left else [])
            ],
            "_optimizer_step_pre_hooks": {},
            "_optimizer_step_post_hooks": {},
            # These would hold the handle, which holds this: only the garbage collector would free
            # the weights and the state.
            "_optimizer_state_dict_pre_hooks": {},
            "_optimizer_load_state_dict_post_hooks": {},
            "_warned_capturable_if_run_uncaptured": True,  # no groups would pass for capturable
        }
        return self._rest

    def after_step(self, optimizer: Optimizer) -> None:
        """Act on the parameters that torch stepped.

        A step that was interrupted leaves its record of means, which belongs to no later step.
        """
        if self._centers_rest:
            self._two_passes.after_step(optimizer)

    def after_load(self, optimizer: Optimizer) -> None:
        """Forget what was prepared for the state before."""
        if self._step is not None:
            self._step.reset()
        self._two_passes.after_load(optimizer)

    def remove(self) -> None:
        """Forget what was prepared."""
        self._step = self._rest = None
        self._two_passes.remove()

    def obstacle(self, optimizer: Optimizer) -> str:
        """Return why the step cannot be taken over now; "" if it can."""
        kind: Any = type(optimizer)
        if not _has_torch_step(kind, kind.step):
            return f"{kind.__name__} does not step as torch's SGD, Adam or AdamW does"
        if not self._is_innermost(optimizer):
            return "another hook of the optimizer runs between centralize's hooks and the step"
        if any(getattr(optimizer, name, None) is not None for name in ("grad_scale", "found_inf")):
            return _SCALED
        for group in optimizer.param_groups:
            if group.get("differentiable"):
                return "differentiable=True needs torch's own step"
            if group.get("capturable") and not all(p.is_cuda for p in group["params"]):
                return "capturable=True is supported on CUDA devices only"
            said = self._centering.options.weight_decay
            decoupled = "decoupled" if group.get("decoupled_weight_decay") else "coupled"
            if group["weight_decay"] and said not in ("auto", decoupled):
                return f"weight_decay={said!r} differs from the optimizer's own"
        return ""

    def _is_innermost(self, optimizer: Optimizer) -> bool:
        before: Any = optimizer._optimizer_step_pre_hooks
        after: Any = optimizer._optimizer_step_post_hooks
        # An observer moves behind all other hooks when a step begins.
        first = (hook for hook in after.values() if not _only_observes(hook))
        hooks = next(reversed(before.values())), next(first)
        places = [getattr(getattr(hook, "__self__", None), "_place", None) for hook in hooks]
        return places[0] is self and places[1] is self

    def way(self, optimizer: Optimizer) -> Way:
        """Return how the next step will be made, and why."""
        reason = self.obstacle(optimizer) or (_SCALED if self._scaled else "")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        devices = {p.device for p in parameters}
        if all(backend(device) == "reference" for device in devices) or self._leaves_all():
            reason = reason or _NOT_SERVED
        if reason:
            return Way("two passes", reason)
        ready = self._ready()
        left = 0 if ready is None else len(ready.left)
        return Way(
            "taken over",
            f"torch steps {left} of {len(parameters)} parameters, which the kernels do not serve"
            if left
            else "the kernels center and step in one pass",
        )

    def _ready(self) -> _Ready | None:
        return None if self._step is None else self._step._ready

    def _leaves_all(self) -> bool:
        """Return whether the prepared step leaves all of its parameters to torch."""
        ready = self._ready()
        return ready is not None and 0 < len(ready.parameters) == len(ready.left)

    def check_required(self, optimizer: Optimizer) -> None:
        """Raise if the step must be taken over, and cannot be."""
        found = self.way(optimizer)
        if self._centering.options.fused and found.name != "taken over":
            raise _refusal(optimizer, found.reason)


def _only_observes(hook: Any) -> bool:
    return getattr(getattr(hook, "__self__", None), "only_observes", False)


class Way(NamedTuple):
    """The way in which an optimizer's centered step is made.

    Args:
        name: "taken over" (the kernels make the whole step), "two passes" (centering around
            torch's own step), "in backward" or "not centered".
        reason: The reason, as a clause.
    """

    name: Literal["taken over", "two passes", "in backward", "not centered"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def _refusal(optimizer: Optimizer, reason: str) -> ZeromeanError:
    return ZeromeanError(
        f"fused=True, but the step of {type(optimizer).__name__} cannot be taken over: {reason}",
        "Leave fused out, which then centers in two passes",
    )


def _run_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Run a step's closure now, and return arguments with a closure that returns its loss."""
    closure = closure_of(args, kwargs)
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    return replace_closure(args, kwargs, partial(_same, loss))


def _same(loss: Any) -> Any:
    return loss


@lru_cache(maxsize=256)
def _has_torch_step(kind: Any, step: Callable[..., Any]) -> bool:
    """Return whether a class steps as torch's SGD, Adam or AdamW.

    torch wraps ``step`` in whichever class is instantiated first, so unwrapped functions are
    compared. A wrapper of anyone else may do more than torch's step.
    """
    return any(
        issubclass(kind, base)
        and unwrap(step) is unwrap(base.step)
        and unwrap(kind._init_group) is unwrap(base._init_group)
        and _is_torch_code(step)
        and _is_torch_code(kind._init_group)
        for base in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    )


def _is_torch_code(function: Any) -> bool:
    """Return whether a function, and each one that it wraps, is of torch's optimizers."""
    while function is not None:
        module = getattr(function, "__globals__", {}).get("__name__", "")
        # torch.compile wraps _init_group.
        if not module.startswith(("torch.optim.", "torch._dynamo.")):
            return False
        function = getattr(function, "__wrapped__", None)
    return True

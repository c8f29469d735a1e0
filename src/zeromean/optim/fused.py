"""Drop-ins whose whole step is one kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels import Entry, prepare, reference
from zeromean.kernels.backends import Part
from zeromean.kernels.residuals import Residuals
from zeromean.kernels.step_spec import Kind, Rule
from zeromean.optim.centered import Centered, refuse
from zeromean.sharded import gradient_of


class Fused(Centered):
    """Steps all parameters of all groups at once, and centers on the way."""

    _ready: _Ready | None = None

    @abstractmethod
    def _rule(self, group: dict[str, Any]) -> Rule:
        """What a param group says now."""

    @abstractmethod
    def _begin(self, group: dict[str, Any]) -> None:
        """Make the state that torch's class makes at the first step."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ready = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Evaluates the model anew and returns the loss (default None).

        Returns:
            What the closure returned, else None.

        Raises:
            ZeromeanError: A gradient is sparse, or a CUDA graph is being captured that cannot hold
                the step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        waiting: list[Tensor] = []
        if id(None) in map(id, gradients):
            fan_ins = self._fan_ins()
            found = [(p, gradient_of(p, fan_ins.get(p))) for p in parameters]
            parameters = [p for p, gradient in found if gradient is not None]
            gradients = [gradient for _, gradient in found if gradient is not None]
            waiting = [p for p in parameters if p.grad is None]
        rules = [self._rule(group) for group in self.param_groups]
        shape = [
            (rule.kind, len(g["params"])) for rule, g in zip(rules, self.param_groups, strict=True)
        ]
        ready = self._ready
        if ready is None or not ready.is_valid(shape, parameters, waiting, gradients, self.state):
            ready = self._ready = self._prepare(shape, parameters, waiting, gradients)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            self._check_capture(ready.parts)
        for step, indices in ready.parts:
            step.run([gradients[index] for index in indices], rules)
        return loss

    def _check_capture(self, parts: list[Part]) -> None:
        if not all(group.get("capturable", True) for group in self.param_groups):
            raise ZeromeanError(
                f"a step of {type(self).__name__} inside the capture of a CUDA graph",
                "capturable=True in all param groups",
                f"build it by {type(self).__name__}(..., capturable=True)",
            )
        if any(isinstance(step, reference.Step) for step, _ in parts):
            raise ZeromeanError(
                "parameters that only the reference kernels serve, in the capture of a CUDA graph",
                "float32, float64 or bfloat16 parameters of usual layouts, and Triton",
                f"centralize torch.optim.{type(self).__name__} with capturable=True",
            )

    def _fan_ins(self) -> dict[Tensor, FanIn]:
        if self.centering is None:
            return {}
        self.centering.before_step(self)
        return {parameter: fan_in for _, parameter, fan_in in self.centering.parameters(self)}

    def _prepare(
        self,
        shape: list[tuple[Kind, int]],
        parameters: list[Tensor],
        waiting: list[Tensor],
        gradients: list[Tensor],
    ) -> _Ready:
        for gradient in gradients:
            if gradient.layout is not torch.strided:
                raise ZeromeanError(
                    f"a sparse gradient of shape {tuple(gradient.shape)}",
                    "dense gradients",
                    f"build the layer with sparse=False, or centralize torch.optim."
                    f"{type(self).__name__} with layers= that leave it out",
                )
        if self._ready is None:
            self._residuals = Residuals()
        fan_ins = self._fan_ins()
        groups = {}
        for number, group in enumerate(self.param_groups):
            refuse(
                self, "its kernels leave no graph behind", differentiable=group["differentiable"]
            )
            self._begin(group)
            groups.update(dict.fromkeys(group["params"], number))
        without = {id(p) for p in waiting}
        entries = []
        for p in parameters:
            fan_in = fan_ins.get(p)
            lost = None
            if fan_in is not None and self._at == "update":
                lost = self._residuals.of(p, fan_in)
            state = self.state.get(p, {})
            entries.append(Entry(p, fan_in, state, groups[p], lost, id(p) in without))
        parts = prepare([kind for kind, _ in shape], self._at, entries, gradients)
        return _Ready(shape, parameters, waiting, [self.state.get(p) for p in parameters], parts)


class _Ready(NamedTuple):
    """A step made ready, and for what."""

    shape: list[tuple[Kind, int]]  # of each group: its kind and how many parameters it holds
    parameters: list[Tensor]
    waiting: list[Tensor]  # those of them without a gradient here
    states: list[dict[str, Any] | None]
    parts: list[Part]

    def is_valid(
        self,
        shape: list[tuple[Kind, int]],
        parameters: Sequence[Tensor],
        waiting: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: dict[Tensor, dict[str, Any]],
    ) -> bool:
        return (
            shape == self.shape
            and len(parameters) == len(self.parameters)
            and len(waiting) == len(self.waiting)
            and all(map(is_, parameters, self.parameters))
            and all(map(is_, waiting, self.waiting))
            and all(map(is_, map(states.get, parameters), self.states))
            and all(step.is_valid([gradients[i] for i in indices]) for step, indices in self.parts)
        )

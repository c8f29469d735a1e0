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
from zeromean.kernels import Entry, prepare
from zeromean.kernels.backends import Part
from zeromean.kernels.rules import Kind, Rule
from zeromean.optim.centered import Centered, refuse


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
            ZeromeanError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        if any(gradient is None for gradient in gradients):
            parameters = [p for p in parameters if p.grad is not None]
            gradients = [p.grad for p in parameters]
        rules = [self._rule(group) for group in self.param_groups]
        shape = [
            (rule.kind, len(g["params"])) for rule, g in zip(rules, self.param_groups, strict=True)
        ]
        ready = self._ready
        if ready is None or not ready.fits(shape, parameters, gradients, self.state):
            ready = self._ready = self._prepare(shape, parameters, gradients)
        for step, indices in ready.parts:
            step.run([gradients[index] for index in indices], rules)
        return loss

    def _prepare(
        self, shape: list[tuple[Kind, int]], parameters: list[Tensor], gradients: list[Tensor]
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
            # What rounding took from the means of half-precision weights, for at="update".
            self._lost: dict[Tensor, Tensor] = {}
        fan_ins: dict[Tensor, FanIn] = {}
        if self._targets is not None:
            self._targets.before_step(self)
            fan_ins = {parameter: fan_in for _, parameter, fan_in in self._targets.of(self)}
        groups = {}
        for number, group in enumerate(self.param_groups):
            refuse(
                self, "its kernels leave no graph behind", differentiable=group["differentiable"]
            )
            self._begin(group)
            groups.update(dict.fromkeys(group["params"], number))
        entries = [
            Entry(p, fan_ins.get(p), self.state.get(p, {}), groups[p], self._lost_by(p, fan_ins))
            for p in parameters
        ]
        parts = prepare([kind for kind, _ in shape], self._at, entries, gradients)
        return _Ready(shape, parameters, [self.state.get(p) for p in parameters], parts)

    def _lost_by(self, parameter: Tensor, fan_ins: dict[Tensor, FanIn]) -> Tensor | None:
        fan_in = fan_ins.get(parameter)
        half = parameter.dtype in (torch.float16, torch.bfloat16)
        if fan_in is None or self._at == "gradient" or not half:
            return None
        if parameter not in self._lost:
            vectors = parameter.numel() // fan_in.size(parameter.shape)
            self._lost[parameter] = torch.zeros(vectors, device=parameter.device)
        return self._lost[parameter]


class _Ready(NamedTuple):
    """A step made ready, and for what."""

    shape: list[tuple[Kind, int]]  # of each group: its kind and how many parameters it holds
    parameters: list[Tensor]
    states: list[dict[str, Any] | None]
    parts: list[Part]

    def fits(
        self,
        shape: list[tuple[Kind, int]],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: dict[Tensor, dict[str, Any]],
    ) -> bool:
        return (
            shape == self.shape
            and len(parameters) == len(self.parameters)
            and all(map(is_, parameters, self.parameters))
            and all(map(is_, map(states.get, parameters), self.states))
            and all(step.fits([gradients[i] for i in indices]) for step, indices in self.parts)
        )

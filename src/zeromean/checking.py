"""Whether an optimizer's step is centered, seen from outside: two steps on copies, compared."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.centralization.centering import CenteredParameter, Centering
from zeromean.centralization.centralize import attach, centering_of, handle_of
from zeromean.centralization.validate import check_subjects, refuse_loss
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.gc_options import GCOptions
from zeromean.projection import shift_, vector_means
from zeromean.sharded import is_sharded
from zeromean.tables import Table

# A step that saw the gradient's mean answers to a change of it with a change of its own size; one
# that did not, with rounding.
ANSWERS = 1e-2
# Rounding steps of the largest weight that a mean may be off, for being kept.
ROUNDING = 4


@dataclass(frozen=True)
class CheckedLayer:
    """What was found of one weight tensor.

    Args:
        name: Its name in the model.
        response: By how much the step changed when a constant was added to every weight vector's
            gradient, relative to the step: rounding alone if the optimizer saw a centered gradient.
        mean_change: The largest change of a weight vector's mean in the step, by the step's root
            mean square: rounding alone if the mean is kept.
        gradient_centered: Whether the gradient that the optimizer saw was centered; None if the
            step was nothing, or overflowed, so that it cannot be told.
        mean_kept: Whether the mean was kept; None if the step is too small beside the weights'
            rounding to tell, or overflowed.
    """

    name: str
    response: float
    mean_change: float
    gradient_centered: bool | None
    mean_kept: bool | None


@dataclass(frozen=True)
class Check(Sequence[CheckedLayer]):
    """What :func:`zeromean.check` found: a sequence of layers; printing it gives a table.

    Args:
        optimizer: Its class.
        at: Where it says that it centers: "gradient", "update" or "backward"; None if nowhere.
        layers: Every layer that is centered, or would be by the defaults.
    """

    optimizer: str
    at: str | None
    layers: tuple[CheckedLayer, ...]

    @property
    def ok(self) -> bool:
        """Whether every layer was seen to be centered where the optimizer says that it centers.

        For one that says nothing, whether every layer was seen to be centered at either place.
        """
        return bool(self.layers) and all(self._fine(layer) is True for layer in self.layers)

    def _fine(self, layer: CheckedLayer) -> bool | None:
        if self.at == "update":
            return layer.mean_kept
        if self.at is not None:
            return layer.gradient_centered
        return layer.gradient_centered or layer.mean_kept

    def __getitem__(self, index: Any) -> Any:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[CheckedLayer]:
        return iter(self.layers)

    def __str__(self) -> str:
        table = [["layer", "gradient centered", "response", "mean kept", "change"]]
        table += [
            [
                layer.name,
                _word(layer.gradient_centered),
                f"{layer.response:.0e}",
                _word(layer.mean_kept),
                f"{layer.mean_change:.0e}",
            ]
            for layer in self.layers
        ]
        return f"{Table(table[0], table[1:])}\n{self._sentence()}"

    def _sentence(self) -> str:
        claim = f"says it centers at {self.at}" if self.at else "is not centralized by zeromean"
        if self.ok:
            return f"{self.optimizer} {claim}; every layer is centered"
        told = [self._fine(layer) for layer in self.layers]
        wrong, unknown = told.count(False), told.count(None)
        parts = [f"{wrong} of {len(told)} layers are NOT centered"] if wrong else []
        parts += [f"{unknown} of {len(told)} cannot be told from this step"] if unknown else []
        return f"{self.optimizer} {claim}; {', '.join(parts) or 'no layer could be centered'}"


def check(
    optimizer: Optimizer,
    model: nn.Module,
    batch: tuple[Any, Any],
    *,
    loss: Callable[[Any, Any], Tensor],
) -> Check:
    r"""See for yourself that a step is centered, layer by layer.

    Copies of model and optimizer make one step on the batch, and further copies the same step with
    a constant added to every weight vector's gradient. Nothing of the original changes. From
    outside alone, whatever the optimizer is made of:

    - The gradient that the optimizer saw was centered if the step does not answer to the constant:
      :math:`P(g + c 1) = P(g)`.
    - The mean is kept if :math:`e^T w` is the same after the step.

    So it tells too whether another library's ``use_gc=True`` does anything.

    Args:
        optimizer: A centralized one, a drop-in, or any other.
        model: The model that it updates, whole in this process.
        batch: One (input, target) pair; an input is a tensor, or a mapping of keyword arguments.
        loss: A function of the model's output and the target.

    Returns:
        A :class:`zeromean.checking.Check`; ``ok`` tells whether all is as it should be.

    Raises:
        ZeromeanError: The batch is no pair, the loss no single number that depends on the
            parameters, model and optimizer cannot be copied or do not belong together, or the
            model is sharded.

    Example:
        >>> import torch, zeromean
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(4, 3) + 1, torch.randn(4, 2)
        >>> zeromean.check(optimizer, model, batch, loss=torch.nn.functional.mse_loss).ok
        False
        >>> handle = zeromean.centralize(optimizer, model)
        >>> zeromean.check(optimizer, model, batch, loss=torch.nn.functional.mse_loss).ok
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, eq. 3 and Algorithms 1 and 2.
    """
    kind = type(optimizer).__name__
    optimizer = check_subjects(optimizer, model)
    _refuse(model, batch)
    centering = centering_of(optimizer)
    chosen = (centering or Centering(optimizer, model, GCOptions())).parameters(optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    known = [target for target in chosen if id(target.parameter) in names]
    step = partial(_step_on_a_copy, optimizer, model, known, batch, loss)
    before = [target.parameter.detach() for target in known]
    plainly, shifted = step(shifted=False), step(shifted=True)
    layers = [
        _compare(names[id(target.parameter)], target.fan_in, *weights)
        for target, *weights in zip(known, before, plainly, shifted, strict=True)
    ]
    return Check(kind, centering.options.at if centering else None, tuple(layers))


def _refuse(model: object, batch: object) -> None:
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            "no model to check", "the model that is trained", "call check(optimizer, model, ...)"
        )
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ZeromeanError(
            "a model that is sharded over processes",
            "one that can be copied in this process",
            "check before sharding it",
        )
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ZeromeanError(
            f"a batch of type {type(batch).__name__}",
            "one (input, target) pair",
            "pass check(optimizer, model, (input, target), loss=...)",
        )


def _step_on_a_copy(
    optimizer: Optimizer,
    model: nn.Module,
    targets: Sequence[CenteredParameter],
    batch: Sequence[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    shifted: bool,
) -> list[Tensor]:
    """The targets' weights after one step, with a constant added to their gradients or without."""
    model, optimizer, parameters = _copies(optimizer, model, targets)
    hooks = [
        parameter.register_hook(partial(_shift, fan_in=target.fan_in))  # type: ignore[no-untyped-call]
        for parameter, target in zip(parameters, targets, strict=True)
        if shifted and parameter.requires_grad
    ]
    inputs, target = batch

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
            value = loss(output, target)
        refuse_loss(value)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with _same_chance(model):
        if _needs_closure(optimizer):
            optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            optimizer.step()
    for hook in hooks:
        hook.remove()
    return [parameter.detach() for parameter in parameters]


def _copies(
    optimizer: Optimizer, model: nn.Module, targets: Sequence[CenteredParameter]
) -> tuple[nn.Module, Optimizer, list[Tensor]]:
    together = model, optimizer, [target.parameter for target in targets]
    memo: dict[int, Any] = {}
    try:
        copied = copy.deepcopy(together, memo)
        # Optimizers copy their groups and state alone; some step by other attributes too. What a
        # schedule has put in the place of methods belongs to the original.
        for name, value in vars(optimizer).items():
            if name not in vars(copied[1]) and not callable(value):
                setattr(copied[1], name, copy.deepcopy(value, memo))
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        raise ZeromeanError(
            f"{type(model).__name__} and {type(optimizer).__name__}, which cannot be copied"
            f" ({error})",
            "a model and an optimizer that copy.deepcopy copies",
            "check before wrapping or compiling them",
        ) from error
    handle = handle_of(optimizer)
    if handle is not None:  # a copy has lost its hooks
        with_model = handle.centering.model is not None
        options = replace(handle.options, project_state=False)  # it was projected already
        attach(copied[1], copied[0] if with_model else None, options)
    return copied


def _shift(gradient: Tensor, fan_in: FanIn) -> Tensor:
    """The gradient with its own root mean square added to every entry of a weight vector."""
    gradient = gradient.clone(memory_format=torch.preserve_format)
    (means,) = vector_means([gradient], [fan_in])
    size = torch.linalg.vector_norm(gradient.to(means.dtype)).abs() / gradient.numel() ** 0.5
    amount = torch.where(size > 0, size, 1.0)
    shift_([gradient], [fan_in], [torch.ones_like(means) * amount])
    return gradient


def _needs_closure(optimizer: Optimizer) -> bool:
    parameter = inspect.signature(optimizer.step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


@contextmanager
def _same_chance(model: nn.Module) -> Iterator[None]:
    """Random numbers as they are now, given back afterwards."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield


@torch.no_grad()
def _compare(
    name: str, fan_in: FanIn, before: Tensor, after: Tensor, shifted: Tensor
) -> CheckedLayer:
    exact = torch.promote_types(before.dtype, torch.float32)
    step, answer = after.to(exact) - before.to(exact), shifted.to(exact) - after.to(exact)
    answered = float(torch.linalg.vector_norm(answer))
    moved = max(float(torch.linalg.vector_norm(step)), answered)
    response = answered / moved if moved else 0.0
    told = moved > 0 and math.isfinite(response)
    old, new = vector_means([before, after], [fan_in, fan_in])
    change = float((new - old).abs().max())
    size = float(torch.linalg.vector_norm(step)) / step.numel() ** 0.5
    rounding = torch.finfo(before.dtype).eps * float(before.abs().max())
    kept = change <= ROUNDING * rounding
    # A small enough change is no proof where a whole step is hardly larger than rounding.
    hidden = kept and size <= 10 * ROUNDING * rounding
    return CheckedLayer(
        name=name,
        response=response,
        mean_change=change / size if size else 0.0,
        gradient_centered=response <= max(ANSWERS, 16 * torch.finfo(before.dtype).eps)
        if told
        else None,
        mean_kept=None if hidden or not math.isfinite(change) else kept,
    )


def _word(told: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[told]

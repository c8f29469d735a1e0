"""``check``: show by steps on copies whether an optimizer's step is centered."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.centralization.centering import CenteredParameter, Centering
from zeromean.centralization.centralize import attach, centering_of, handle_of
from zeromean.centralization.validate import check_subjects, refuse_loss
from zeromean.errors import ZeromeanError, ZeromeanWarning
from zeromean.fan_in import FanIn
from zeromean.gc_options import GCOptions
from zeromean.measurement.random_state import random_state_kept
from zeromean.measurement.sample import warn_of_vanished
from zeromean.measurement.statistics import vanishing_share
from zeromean.plan import Layers
from zeromean.projection import shift_, vector_means
from zeromean.sharded import is_sharded
from zeromean.tables import Table, TabularSequence

__all__ = ["Check", "CheckedLayer", "check"]


def __dir__() -> list[str]:
    return sorted(__all__)


# Response up to which a gradient counts as centered. A step that depends on the gradient's mean
# changes by about its own size when the mean and the signs of small entries do; any other step
# changes by rounding alone.
MAX_RESPONSE = 1e-2
# Change of a mean, in rounding steps of the largest weight before or after the step, up to which it
# counts as kept.
MAX_ROUNDING_STEPS = 4


@dataclass(frozen=True)
class CheckedLayer:
    """The findings for one weight tensor.

    Args:
        name: Full name of the parameter in the model.
        response: Relative change of the step when a constant is added to the gradient of every
            weight vector; at the level of rounding if the optimizer saw a centered gradient.
        mean_change: Largest change of a weight vector's mean in the step, divided by the step's
            root mean square; at the level of rounding if the mean is kept.
        vanished: Share of the gradient's nonzero entries that centering turns into exact zeros.
        gradient_centered: Whether the optimizer saw a centered gradient; None if the step was zero
            or not finite.
        mean_kept: Whether the mean was kept; None if the step is too small compared with the
            weights' rounding, or not finite.
    """

    name: str
    response: float
    mean_change: float
    vanished: float
    gradient_centered: bool | None
    mean_kept: bool | None


@dataclass(frozen=True, repr=False)
class Check(TabularSequence[CheckedLayer]):
    """The result of :func:`zeromean.check`: a sequence of layers; printing it gives a table.

    Args:
        optimizer: Class name of the optimizer.
        at: Place where the optimizer claims to center: "gradient", "update" or "backward"; None for
            nowhere.
        layers: Every layer that is centered, or would be by the defaults of ``centralize``. Frozen
            layers, which no step changes, are left out.
    """

    optimizer: str
    at: str | None
    layers: tuple[CheckedLayer, ...]

    @property
    def ok(self) -> bool:
        """Whether every layer is centered at the place that the optimizer claims.

        If the optimizer claims no place, each layer may be centered at either one.
        """
        return bool(self.layers) and all(self._is_centered(layer) is True for layer in self.layers)

    def _is_centered(self, layer: CheckedLayer) -> bool | None:
        if self.at == "update":
            return layer.mean_kept
        if self.at is not None:
            return layer.gradient_centered
        return layer.gradient_centered or layer.mean_kept

    @property
    def _entries(self) -> tuple[CheckedLayer, ...]:
        return self.layers

    def table(self) -> Table:
        """Return the printed table: one row per layer."""
        words = {True: "yes", False: "no", None: "?"}
        rows = [
            (
                layer.name,
                words[layer.gradient_centered],
                _number(layer.response),
                words[layer.mean_kept],
                _number(layer.mean_change),
                f"{layer.vanished:.1%}",
            )
            for layer in self.layers
        ]
        header = ("layer", "gradient centered", "response", "mean kept", "change", "vanished")
        return Table(header, rows)

    def _conclusions(self) -> list[str]:
        claim = f"claims to center at {self.at}" if self.at else "is not centralized by zeromean"
        if self.ok:
            return [f"{self.optimizer} {claim}; every layer is centered"]
        found, total = [self._is_centered(layer) for layer in self.layers], len(self.layers)
        wrong, unknown = found.count(False), found.count(None)
        parts = [f"{wrong} of {total} layers are NOT centered"] if wrong else []
        parts += [f"{unknown} of {total} layers are undecided by this step"] if unknown else []
        return [f"{self.optimizer} {claim}; {', '.join(parts) or 'no layer could be centered'}"]


def check(
    optimizer: Optimizer,
    model: nn.Module,
    batch: tuple[Any, Any],
    *,
    loss: Callable[[Any, Any], Tensor],
) -> Check:
    r"""Check layer by layer whether an optimizer's step is centered.

    Copies of the model and the optimizer make one step on the batch, and other copies make the same
    step with a constant added to the gradient of every weight vector. The originals do not change.
    The comparison needs no knowledge of the optimizer:

    - The optimizer saw a centered gradient if the constant does not change its step, because
      :math:`P(g + c 1) = P(g)`.
    - The mean is kept if :math:`e^T w` is the same after the step.

    The check therefore also shows whether another library's ``use_gc=True`` has an effect. It warns
    if centering turns more than 1% of a layer's nonzero gradient entries into zeros.

    Args:
        optimizer: Any optimizer, such as a centralized one or a drop-in.
        model: Model that the optimizer updates, not sharded over processes.
        batch: One (input, target) pair; the input is a tensor or a mapping of keyword arguments.
        loss: Function of the model's output and the target.

    Returns:
        A :class:`zeromean.checking.Check`, whose ``ok`` is true if every layer is centered.

    Raises:
        ZeromeanError: The batch is not a pair; the loss is not a single number that depends on the
            parameters; the model and the optimizer cannot be copied or do not belong together; or
            the model is sharded.

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
    _check_arguments(model, batch)
    centering = centering_of(optimizer)
    centered = (centering or Centering(optimizer, model, GCOptions())).parameters(optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    known = [one for one in centered if id(one.parameter) in names and one.parameter.requires_grad]
    at = centering.options.at if centering else None
    before = [one.parameter.detach() for one in known]
    vanished: list[float] = [0.0] * len(known)

    def measure(index: int, gradient: Tensor) -> Tensor:
        vanished[index] = vanishing_share(gradient, known[index].fan_in)
        return gradient

    def add_constant(index: int, gradient: Tensor) -> Tensor:
        return _shifted(gradient, known[index].fan_in)

    after = _step_on_copies(optimizer, model, known, batch, loss, measure)
    shifted = _step_on_copies(optimizer, model, known, batch, loss, add_constant)
    layers = [
        _compare(names[id(one.parameter)], one.fan_in, share, *weights)
        for one, share, *weights in zip(known, vanished, before, after, shifted, strict=True)
    ]
    warn_of_vanished(at, {layer.name: layer.vanished for layer in layers})
    return Check(kind, at, tuple(layers))


def _check_arguments(model: object, batch: object) -> None:
    if not isinstance(model, nn.Module):
        raise ZeromeanError("the model is missing", "Call check(optimizer, model, batch, loss=...)")
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ZeromeanError(
            "the model is sharded over processes, so that it cannot be copied in this one",
            "Check it before sharding it",
        )
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ZeromeanError(
            f"the batch is {type(batch).__name__}, not one (input, target) pair",
            "Call check(optimizer, model, (input, target), loss=...)",
        )


def _step_on_copies(
    optimizer: Optimizer,
    model: nn.Module,
    centered: Sequence[CenteredParameter],
    batch: Sequence[Any],
    loss: Callable[[Any, Any], Tensor],
    on_gradient: Callable[[int, Tensor], Tensor],
) -> list[Tensor]:
    """Return the weights after one step along the gradients that ``on_gradient`` returns."""
    model, optimizer, parameters = _copies(optimizer, model, centered)
    for index, parameter in enumerate(parameters):

        def hook(gradient: Tensor, index: int = index) -> Tensor:
            return on_gradient(index, gradient)

        parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    inputs, target = batch

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
            value = loss(output, target)
        refuse_loss(value)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with random_state_kept(model):  # both steps draw the same random numbers
        if _needs_closure(optimizer):
            optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            optimizer.step()
    return [parameter.detach() for parameter in parameters]


def _copies(
    optimizer: Optimizer, model: nn.Module, centered: Sequence[CenteredParameter]
) -> tuple[nn.Module, Optimizer, list[Tensor]]:
    originals = model, optimizer, [one.parameter for one in centered]
    memo: dict[int, Any] = {}
    try:
        copied = copy.deepcopy(originals, memo)
        # Optimizers copy only their groups and state, but some use other attributes in their step.
        # Functions are left out: a method that a scheduler has replaced refers to the original.
        for name, value in vars(optimizer).items():
            if name not in vars(copied[1]) and not callable(value):
                setattr(copied[1], name, copy.deepcopy(value, memo))
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        raise ZeromeanError(
            f"{type(model).__name__} and {type(optimizer).__name__} cannot be copied by"
            f" copy.deepcopy ({error})",
            "Check them before wrapping or compiling them",
        ) from error
    own, centering = centering_of(copied[1]), centering_of(optimizer)
    if own is not None and centering is not None:  # a drop-in has its own model, if only a part
        layers = _by_originals(own.options.layers, centering.model)
        own.options = replace(own.options, layers=layers)
    handle = handle_of(optimizer)
    if handle is not None:  # a copy has lost its hooks
        with_model = handle.centering.model is not None
        layers = _by_originals(handle.options.layers, model)
        # The state is projected already.
        options = replace(handle.options, layers=layers, project_state=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeromeanWarning)  # the user has seen them
            attach(copied[1], copied[0] if with_model else None, options)
    return copied


def _by_originals(layers: Layers, model: nn.Module | None) -> Layers:
    """Return the same selection for a copy of a model; a predicate may compare modules."""
    if model is None or not callable(layers):
        return layers
    originals = dict(model.named_modules())
    return lambda name, module: layers(name, originals.get(name, module))


def _shifted(gradient: Tensor, fan_in: FanIn) -> Tensor:
    """Return the gradient plus or minus its root mean square in every entry of a weight vector.

    The sign is opposite to most of the vector's small entries, which change theirs: Adam's first
    step and all steps of Lion depend on the signs alone.
    """
    gradient = gradient.clone(memory_format=torch.preserve_format)
    exact = torch.promote_types(gradient.dtype, torch.float32)
    size = torch.linalg.vector_norm(gradient.to(exact)) / gradient.numel() ** 0.5
    size = torch.where(size > 0, size, 1.0)
    small = torch.where(gradient.abs() <= size, gradient.sgn(), 0)
    (signs,) = vector_means([small], [fan_in])
    shift_([gradient], [fan_in], [torch.where(signs.real > 0, -size, size).to(signs.dtype)])
    return gradient


def _needs_closure(optimizer: Optimizer) -> bool:
    parameter = inspect.signature(optimizer.step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


@torch.no_grad()
def _compare(
    name: str, fan_in: FanIn, vanished: float, before: Tensor, after: Tensor, shifted: Tensor
) -> CheckedLayer:
    exact = torch.promote_types(before.dtype, torch.float32)
    step, difference = after.to(exact) - before.to(exact), shifted.to(exact) - after.to(exact)
    changed = float(torch.linalg.vector_norm(difference))
    largest = max(float(torch.linalg.vector_norm(step)), changed)
    response = changed / largest if largest else 0.0
    limit = max(MAX_RESPONSE, 16 * torch.finfo(before.dtype).eps)
    old, new = vector_means([before, after], [fan_in, fan_in])
    change = float((new - old).abs().max())
    size = float(torch.linalg.vector_norm(step)) / step.numel() ** 0.5
    largest_weight = max(float(weights.abs().max()) for weights in (before, after))
    rounding = MAX_ROUNDING_STEPS * torch.finfo(before.dtype).eps * largest_weight
    kept = change <= rounding
    # A small change proves nothing if the whole step is hardly larger than rounding.
    undecided = not math.isfinite(change) or (kept and size <= 10 * rounding)
    return CheckedLayer(
        name=name,
        response=response,
        mean_change=change / size if size else 0.0,
        vanished=vanished,
        gradient_centered=response <= limit if largest > 0 and math.isfinite(response) else None,
        mean_kept=None if undecided else kept,
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0e}"

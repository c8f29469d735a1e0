"""Weight normalization and its kin as parametrizations of torch's own kind."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeromean.fan_in import FanIn
from zeromean.projection import one_each
from zeromean.reparam.formulas import Formula, Method, take_apart
from zeromean.reparam.normalize import Normalization


class Normalized(nn.Module):
    r"""Computes a weight from its proxy v: :math:`w = g \, x / n`, plus an offset if it keeps one.

    torch stores the originals: the gains g as ``original0`` and v as ``original1``, named and
    shaped as by ``torch.nn.utils.parametrizations.weight_norm``; or v alone as ``original`` where
    g is a fixed number. A weight that is assigned is preserved as far as the formula allows.

    ``order`` names the module's parameters in the order that folding restores.

    Args:
        fan_in: The axes of the weight's vectors.
        weight: The weight, for its shape and type.
        formula: How the weight follows from its proxy.
        scale: None for learned gains, or g.
        keep_mean: Whether a weight's mean is carried along as a fixed offset, the buffer ``mean``.
    """

    method: ClassVar[Method]
    centers: ClassVar[bool]
    default_eps: ClassVar[float | None] = None
    default_scale: ClassVar[float | None] = None

    def __init__(
        self,
        fan_in: FanIn,
        weight: Tensor,
        formula: Formula,
        *,
        scale: float | None,
        keep_mean: bool,
    ) -> None:
        super().__init__()
        self.fan_in = fan_in
        self.scale = scale
        self.formula = formula
        self._weight = Normalization(formula, fan_in)
        self.order: tuple[str, ...] = ()
        mean = weight.new_zeros(one_each(weight.shape, fan_in)) if keep_mean else None
        self.register_buffer("mean", mean)

    mean: Tensor | None

    def forward(self, *originals: Tensor) -> Tensor:
        """The weight of (g, v), or of (v,) where g is fixed."""
        if self.scale is not None:
            return self._weight(originals[0], self.scale, self.mean)
        g, v = originals
        return self._weight(v, g, self.mean)

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Originals whose weight is this one, as nearly as there are such."""
        parts = take_apart(weight, self.formula, self.fan_in)
        if self.mean is not None:
            self.mean.copy_(parts.mean)
        v = weight.clone()  # torch keeps what is returned, and trains it
        if self.scale is not None:
            return v
        return parts.norm.to(weight.dtype), v

    def extra_repr(self) -> str:
        told = [f"axes={self.fan_in.axes}"]
        if self.fan_in.groups > 1:
            told.append(f"groups={self.fan_in.groups}")
        if self.scale is not None:
            told.append(f"scale={self.scale:g}")
        if self.formula.eps is not None:
            told.append(f"eps={self.formula.eps:g}")
        if self.mean is not None:
            told.append("mean='keep'")
        return ", ".join(told)


class WeightNorm(Normalized):
    r"""Weight normalization: :math:`w = g v / \lVert v \rVert`.

    Reference:
        Salimans and Kingma, Weight Normalization, NeurIPS 2016, eq. 2.
    """

    method = "wn"
    centers = False


class CenteredWeightNorm(Normalized):
    r"""Centered weight normalization: :math:`w = g (v - \bar v) / \lVert v - \bar v \rVert`.

    Reference:
        Huang et al., Centered Weight Normalization, ICCV 2017, eq. 2 and 5.
    """

    method = "cwn"
    centers = True


class WeightStandardization(Normalized):
    r"""Weight standardization: :math:`w = g (v - \bar v) / \sqrt{\operatorname{var} v + \epsilon}`.

    The paper has no gain, g = 1; a learned one is the later ScaledStd variant.

    Reference:
        Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization, 2019.
    """

    method = "ws"
    centers = True
    default_eps = 1e-5
    default_scale = 1.0


KINDS: dict[str, type[Normalized]] = {
    kind.method: kind for kind in (WeightNorm, CenteredWeightNorm, WeightStandardization)
}


def formula_of(kind: type[Normalized], eps: float | None = None) -> Formula:
    """The formula of a kind, with its own eps unless another is given."""
    return Formula(kind.method, kind.centers, kind.default_eps if eps is None else eps)


def register(
    module: nn.Module,
    name: str,
    fan_in: FanIn,
    kind: type[Normalized],
    *,
    scale: float | None,
    eps: float | None = None,
    init: str = "preserve",
    keep_mean: bool = False,
) -> None:
    """Let a parameter of a module be computed from a proxy."""
    weight = getattr(module, name)
    formula = formula_of(kind, eps)
    parametrization = kind(fan_in, weight, formula, scale=scale, keep_mean=keep_mean)
    others = parametrized_by(module).values()
    parametrization.order = next((p.order for p in others), tuple(module._parameters))
    parametrize.register_parametrization(module, name, parametrization, unsafe=True)
    if "_flat_weights" in vars(module) and "__deepcopy__" in vars(type(module)):
        setattr(type(module), "__deepcopy__", _deepcopy_rnn)  # noqa: B010
    _start_gains(module, name, init)
    if load_old_names not in _pre_hooks(module):
        hooked: Any = module
        hooked.register_load_state_dict_pre_hook(load_old_names)


def assign(module: nn.Module, name: str, weight: Tensor, *, init: str) -> None:
    """Let a proxy start from this weight."""
    setattr(module, name, weight)
    _start_gains(module, name, init)


def parametrized_by(module: nn.Module) -> dict[str, Normalized]:
    """The parameters of a module that are computed from a proxy, and by what."""
    if not parametrize.is_parametrized(module):
        return {}
    lists: Any = module.parametrizations
    return {name: found[0] for name, found in lists.items() if isinstance(found[0], Normalized)}


def load_old_names(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: object
) -> None:
    """Let a checkpoint of torch's older weight_norm, with weight_g and weight_v, be loaded."""
    for name, parametrization in parametrized_by(module).items():
        old = [f"{prefix}{name}_{letter}" for letter in "gv"]
        if isinstance(parametrization, WeightNorm) and all(key in state_dict for key in old):
            for number, key in enumerate(old):
                new = f"{prefix}parametrizations.{name}.original{number}"
                state_dict[new] = state_dict.pop(key)


def unregister(module: nn.Module, name: str) -> None:
    """Make a computed parameter a plain one, of the value it has."""
    originals: Any = module.parametrizations[name]  # type: ignore[index]
    order = originals[0].order
    trained = any(original.requires_grad for original in originals.parameters(recurse=False))
    remove_parametrizations(module, name, trained)
    # Optimizers and their checkpoints number parameters in this order.
    for key in [*order, *(key for key in module._parameters if key not in order)]:
        if key in module._parameters:
            module._parameters[key] = module._parameters.pop(key)
    if not parametrized_by(module):
        for key, hook in list(module._load_state_dict_pre_hooks.items()):
            if getattr(hook, "hook", None) is load_old_names:
                del module._load_state_dict_pre_hooks[key]


def remove_parametrizations(module: nn.Module, name: str, trained: bool) -> None:
    """Leave a plain parameter in the place of a parametrized one."""
    # torch keeps the property on a class that deep copies share, and deletes it there.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    parametrize.remove_parametrizations(module, name)
    weight: Any = getattr(module, name)
    if not isinstance(weight, nn.Parameter):  # torch makes a buffer of what is not trained
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(weight.detach()))
    getattr(module, name).requires_grad_(trained)


def _deepcopy_rnn(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of an RNN, which keeps the weights it last computed with, a graph behind them."""
    flat: Any = module._flat_weights
    memo.update({id(w): w.detach() for w in flat if w is not None and w.grad_fn is not None})
    replica = memo[id(module)] = module.__new__(type(module))
    vars(replica).update(copy.deepcopy(vars(module), memo))
    return replica


def _pre_hooks(module: nn.Module) -> list[object]:
    hooks = module._load_state_dict_pre_hooks.values()
    return [getattr(hook, "hook", None) for hook in hooks]


def _start_gains(module: nn.Module, name: str, init: str) -> None:
    originals: Any = module.parametrizations[name]  # type: ignore[index]
    if init == "unit" and not originals.is_tensor:
        with torch.no_grad():
            originals.original0.fill_(1.0)

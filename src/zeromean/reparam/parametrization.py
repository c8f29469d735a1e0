"""Weight normalization and its relatives as parametrizations of ``torch.nn.utils.parametrize``."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeromean.errors import warn
from zeromean.fan_in import FanIn
from zeromean.projection import one_each
from zeromean.reparam.formulas import Formula, take_apart
from zeromean.reparam.normalize import Normalization
from zeromean.sharded import is_sharded


class Normalized(nn.Module):
    r"""Computes a weight from its proxy v: :math:`w = g \, x / n`, plus an offset if it keeps one.

    torch stores the originals: the gains g as ``original0`` and v as ``original1``, with the names
    and shapes of ``torch.nn.utils.parametrizations.weight_norm``; or v alone as ``original`` if g
    is a fixed number. Assigning a weight preserves it as far as the formula allows.

    Args:
        fan_in: Axes of the weight's vectors.
        weight: Weight, for its shape and type.
        formula: Formula by which the weight follows from its proxy; that of the class is its
            default.
        scale: Fixed gain, or None for learned gains.
        init: "preserve" or "unit": how ``reset_parameters`` sets learned gains.
        keep_mean: Whether a weight's mean is kept as a fixed offset, the buffer ``mean``.
    """

    formula: Formula
    default_scale: ClassVar[float | None] = None

    mean: Tensor | None

    def __init__(
        self,
        fan_in: FanIn,
        weight: Tensor,
        formula: Formula,
        *,
        scale: float | None,
        init: str,
        keep_mean: bool,
    ) -> None:
        super().__init__()
        self.fan_in = fan_in
        self.scale = scale
        self.formula = formula
        self.init = init
        self._weight = Normalization(formula, fan_in)
        # Names of the module's parameters in the order that folding restores.
        self.order: tuple[str, ...] = ()
        mean = weight.new_zeros(one_each(weight.shape, fan_in)) if keep_mean else None
        self.register_buffer("mean", mean)

    def forward(self, *originals: Tensor) -> Tensor:
        """Return the weight for (g, v), or for (v,) if g is fixed."""
        if self.scale is not None:
            return self._weight(originals[0], self.scale, self.mean)
        g, v = originals
        return self._weight(v, g, self.mean)

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return originals whose weight is as close to this one as the formula allows."""
        self._weight.forget()
        parts = take_apart(weight, self.formula, self.fan_in)
        if self.mean is not None:
            self.mean.copy_(parts.mean)
        v = weight.clone()  # torch keeps and trains what is returned
        if self.scale is not None:
            return v
        return parts.norm.to(weight.dtype), v

    def extra_repr(self) -> str:
        options = [f"axes={self.fan_in.axes}"]
        if self.fan_in.groups > 1:
            options.append(f"groups={self.fan_in.groups}")
        if self.scale is not None:
            options.append(f"scale={self.scale:g}")
        if self.formula.eps is not None:
            options.append(f"eps={self.formula.eps:g}")
        if self.mean is not None:
            options.append("mean='keep'")
        return ", ".join(options)


class WeightNorm(Normalized):
    r"""Weight normalization: :math:`w = g v / \lVert v \rVert`.

    Reference:
        Salimans and Kingma, Weight Normalization, NeurIPS 2016, eq. 2.
    """

    formula = Formula(centers=False)


class CenteredWeightNorm(Normalized):
    r"""Centered weight normalization: :math:`w = g (v - \bar v) / \lVert v - \bar v \rVert`.

    Reference:
        Huang et al., Centered Weight Normalization, ICCV 2017, eq. 2 and 5.
    """

    formula = Formula(centers=True)


class WeightStandardization(Normalized):
    r"""Weight standardization: :math:`w = g (v - \bar v) / \sqrt{\operatorname{var} v + \epsilon}`.

    The paper has no gain, g = 1; a learned one is the later ScaledStd variant.

    Reference:
        Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization, 2019.
    """

    formula = Formula(centers=True, eps=1e-5)
    default_scale = 1.0


KINDS: dict[str, type[Normalized]] = {
    "wn": WeightNorm,
    "cwn": CenteredWeightNorm,
    "ws": WeightStandardization,
}


def formula_of(kind: type[Normalized], eps: float | None = None) -> Formula:
    """Return the formula of a kind, with its default eps unless another is given."""
    return kind.formula if eps is None else replace(kind.formula, eps=eps)


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
    """Compute a parameter of a module from a proxy from now on."""
    parametrization = kind(
        fan_in, getattr(module, name), formula_of(kind, eps),
        scale=scale, init=init, keep_mean=keep_mean,
    )  # fmt: skip
    others = list(parametrized_by(module).values())
    parametrization.order = others[0].order if others else tuple(module._parameters)
    parametrize.register_parametrization(module, name, parametrization, unsafe=True)
    # torch gives each parametrized module a class of its own, which can hold methods.
    own_class: Any = type(module)
    if "_flat_weights" in vars(module) and "__deepcopy__" in vars(own_class):
        own_class.__deepcopy__ = _deepcopy_rnn
    if hasattr(own_class, "reset_parameters"):
        own_class.reset_parameters = _reset_parameters
    elif hasattr(own_class, "_reset_parameters"):  # torch.nn.MultiheadAttention
        own_class._reset_parameters = _reset_parameters
    _start_gains(module, name)
    if not others:
        module.register_load_state_dict_pre_hook(load_other_forms)  # type: ignore[no-untyped-call]


def parametrized_by(module: nn.Module) -> dict[str, Normalized]:
    """Return the names of a module's computed parameters with their parametrizations."""
    if not parametrize.is_parametrized(module):
        return {}
    lists: Any = module.parametrizations
    return {name: found[0] for name, found in lists.items() if isinstance(found[0], Normalized)}


def load_other_forms(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    *_unused: object,
) -> None:
    """Convert entries of a checkpoint to the originals of a module's computed weights.

    Converts plain weights, as :func:`zeromean.reparametrize` would, and the ``weight_g`` and
    ``weight_v`` of torch's older weight_norm. A hook that torch calls with the module.
    """
    for name, parametrization in parametrized_by(module).items():
        home = f"{prefix}parametrizations.{name}."
        old = [f"{prefix}{name}_{letter}" for letter in "gv"]
        plain = state_dict.get(f"{prefix}{name}")
        if isinstance(parametrization, WeightNorm) and all(key in state_dict for key in old):
            for number, key in enumerate(old):
                state_dict[f"{home}original{number}"] = state_dict.pop(key)
        elif isinstance(plain, Tensor) and not any(key.startswith(home) for key in state_dict):
            lists: Any = module.parametrizations
            if len(lists[name]) == 1 and not is_sharded(plain):  # others have other inverses
                proxy = _proxy(module, name)
                if not local_metadata.get("assign_to_params_buffers"):
                    plain = plain.to(proxy.dtype)
                del state_dict[f"{prefix}{name}"]
                state_dict.update(_converted(parametrization, plain, proxy.shape, home))


@torch.no_grad()
def _converted(
    parametrization: Normalized, weight: Tensor, shape: torch.Size, home: str
) -> dict[str, Tensor]:
    """Return the state_dict entries whose weight is closest to a plain one."""
    names = ["original0", "original1"] if parametrization.scale is None else ["original"]
    if weight.shape != shape:
        return {home + names[-1]: weight}  # torch reports the size mismatch
    # Its buffer may be on the meta device, and right_inverse overwrites it.
    twin = copy.deepcopy(parametrization).to_empty(device=weight.device).to(weight.dtype)
    inverse = twin.right_inverse(weight)
    originals = inverse if isinstance(inverse, tuple) else (inverse,)
    moved = (twin(*originals) - weight).float().norm() / weight.float().norm()
    if moved > max(1e-3, 2 * torch.finfo(weight.dtype).eps):
        warn(
            "Plain weights were loaded into re-parametrized layers that cannot represent them"
            " exactly, so the function has changed. To keep it, load the checkpoint into the plain"
            ' model first and then call reparametrize(..., mean="keep").'
        )
    entries = {home + name: value for name, value in zip(names, originals, strict=True)}
    if twin.mean is not None:
        entries[f"{home}0.mean"] = twin.mean
    return entries


def unregister(module: nn.Module, name: str) -> None:
    """Replace a computed parameter by a plain one with the same value."""
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
            if getattr(hook, "hook", None) is load_other_forms:
                del module._load_state_dict_pre_hooks[key]


def remove_parametrizations(module: nn.Module, name: str, trained: bool) -> None:
    """Replace a parametrized tensor by a plain parameter."""
    # torch keeps the property on a class that deep copies share, and deletes it there.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    parametrize.remove_parametrizations(module, name)
    weight: Any = getattr(module, name)
    if not isinstance(weight, nn.Parameter):  # torch makes a buffer of a frozen tensor
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(weight.detach()))
    getattr(module, name).requires_grad_(trained)


def _reset_parameters(module: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Run the plain class's own initialization and start the proxies from its result."""
    plain: Any = parametrize.type_before_parametrizations(module)
    reset = getattr(plain, "reset_parameters", None) or plain._reset_parameters
    names = list(parametrized_by(module))
    with torch.no_grad(), parametrize.cached():
        before = {n: (getattr(module, n).clone(), _proxy(module, n).clone()) for n in names}
        # It writes into the cached weights or, in an RNN, into every parameter.
        reset(module, *args, **kwargs)
        after = {n: (getattr(module, n).clone(), _proxy(module, n).clone()) for n in names}
    for name in names:
        for old, new in zip(before[name], after[name], strict=True):
            # Values are compared, because a write to ``weight.data`` leaves no other trace.
            if new.is_meta or not torch.equal(old, new):
                setattr(module, name, new)
                _start_gains(module, name)
                break


def _proxy(module: nn.Module, name: str) -> Tensor:
    originals: Any = module.parametrizations[name]  # type: ignore[index]
    proxy: Tensor = originals.original if originals.is_tensor else originals.original1
    return proxy


def _deepcopy_rnn(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy an RNN, which holds the weights that it last computed with and their graph."""
    flat: Any = module._flat_weights
    memo.update({id(w): w.detach() for w in flat if w is not None and w.grad_fn is not None})
    replica = memo[id(module)] = module.__new__(type(module))
    vars(replica).update(copy.deepcopy(vars(module), memo))
    return replica


def _start_gains(module: nn.Module, name: str) -> None:
    originals: Any = module.parametrizations[name]  # type: ignore[index]
    if originals[0].init == "unit" and not originals.is_tensor:
        with torch.no_grad():
            originals.original0.fill_(1.0)

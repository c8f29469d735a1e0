"""Conversion of torch's weight_norm, in both of its forms, to "wn" and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, remove_weight_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.weight_norm import WeightNorm as Hook

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.model import owners
from zeromean.plan import Row, make_plan
from zeromean.reparam.changes import Change, Report, compare
from zeromean.reparam.parametrization import (
    WeightNorm,
    parametrized_by,
    register,
    remove_parametrizations,
    unregister,
)
from zeromean.reparam.preconditions import (
    check_module,
    check_only_parametrization,
    check_undistributed,
)


class _Normed(NamedTuple):
    """A weight computed by torch's weight_norm; dim -1 means one norm for the whole tensor."""

    module_name: str
    module: nn.Module
    name: str
    dim: int
    g: Tensor
    v: Tensor
    hook: bool


def from_torch(model: nn.Module) -> Report:
    """Convert every weight computed by torch's weight_norm to zeromean's "wn", in place.

    Converts both ``torch.nn.utils.weight_norm`` (a hook) and
    ``torch.nn.utils.parametrizations.weight_norm``. If torch's norm is over the fan-in axes, g and
    v stay the same and training continues as before. If it is over other axes (``dim=0`` of a
    transposed convolution, or ``dim=None``), v becomes the weight and g the lengths of its
    vectors: the function stays the same, but training differs. A frozen g or v stays frozen.
    Create the optimizer after this call.

    Args:
        model: Model with weights computed by torch's weight_norm.

    Returns:
        A report like that of :func:`zeromean.reparametrize`, for these weights only.

    Raises:
        ZeromeanError: The model is wrapped or sharded.

    Example:
        >>> import torch
        >>> from zeromean.reparam import from_torch
        >>> model = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 2))
        >>> [change.done for change in from_torch(model)]
        [True]
    """
    check_module(model)
    check_undistributed(model, "from_torch")
    changes = []
    for normed in list(_normed(model)):
        row = _plan(normed)
        if row.role == "embedding":
            row = row.left_alone("embeddings are not re-parametrized")
        lists: Any = getattr(normed.module, "parametrizations", {})
        if normed.name in lists and len(lists[normed.name]) > 1:
            row = row.left_alone("it has other parametrizations too: remove them first")
        if not row.centered or row.fan_in is None:
            changes.append(Change(row))
            continue
        weight = torch._weight_norm(normed.v, normed.g, normed.dim).detach()
        same = normed.dim >= 0 and normed.dim == _dim(row.fan_in, weight.ndim)
        _remove(normed)
        register(normed.module, normed.name, row.fan_in, WeightNorm, scale=None)
        lists = normed.module.parametrizations
        made = lists[normed.name]
        if same:  # with torch's own g and v
            _put(made, {"original0": normed.g, "original1": normed.v})
        else:
            made.original0.requires_grad_(normed.g.requires_grad)
            made.original1.requires_grad_(normed.v.requires_grad)
        after = getattr(normed.module, normed.name).detach()
        changes.append(compare(row, weight, after))
    report = Report("wn", tuple(changes))
    if not report.done:
        warn("No weight of torch's weight_norm is converted. Print the report to see why.")
    return report


def to_torch(model: nn.Module, *, hook: bool = False) -> nn.Module:
    """Convert every "wn" weight of :func:`zeromean.reparametrize` to torch's own, in place.

    g and v stay the same. Parameters get torch's names.

    Args:
        model: Model with "wn" weights.
        hook: False (default) for ``torch.nn.utils.parametrizations.weight_norm``; True for the
            deprecated ``torch.nn.utils.weight_norm``, with weight_g and weight_v.

    Returns:
        The model.

    Raises:
        ZeromeanError: A weight has a fixed scale or the groups of a transposed convolution, which
            torch's weight_norm does not support; or it has other parametrizations too.

    Example:
        >>> import torch, zeromean
        >>> from zeromean.reparam import to_torch
        >>> model = torch.nn.Linear(4, 2)
        >>> report = zeromean.reparametrize(model, "wn")
        >>> to_torch(model).parametrizations.weight[0]
        _WeightNorm()
    """
    check_module(model)
    check_undistributed(model, "to_torch")
    found: list[_Normed] = []
    for module_name, module in model.named_modules():
        for name, parametrization in parametrized_by(module).items():
            if not isinstance(parametrization, WeightNorm):
                continue
            check_only_parametrization(module_name, module)
            lists: Any = module.parametrizations
            dim = _dim(parametrization.fan_in, getattr(module, name).ndim)
            if parametrization.scale is not None or dim is None:
                raise ZeromeanError(
                    f"{_full_name(module_name, name)} ({parametrization.extra_repr()}) does not"
                    " have one learned gain per index of one axis, as torch's weight_norm requires",
                    "Turn it into a plain weight first with zeromean.fold(layer)",
                )
            g, v = lists[name].original0, lists[name].original1
            found.append(_Normed(module_name, module, name, dim, g, v, hook))
    for _, module, name, dim, g, v, _ in found:
        unregister(module, name)
        if hook:
            with warnings.catch_warnings():  # torch deprecates its older form
                warnings.simplefilter("ignore", FutureWarning)
                old_weight_norm(module, name, dim)
            _put(module, {f"{name}_g": g, f"{name}_v": v})
            with torch.no_grad():
                setattr(module, name, torch._weight_norm(v, g, dim))
        else:
            parametrizations.weight_norm(module, name, dim)
            lists = module.parametrizations
            _put(lists[name], {"original0": g, "original1": v})
    return model


def old_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the entries of a weight_norm checkpoint to those of torch's older form.

    ``x.parametrizations.weight.original0`` becomes ``x.weight_g`` and ``original1`` becomes
    ``x.weight_v``. Renaming back is not needed: torch's and zeromean's parametrizations load the
    older names.

    Args:
        state_dict: State dict of a model with torch's weight_norm or zeromean's "wn".

    Returns:
        A new dictionary with the same values.

    Example:
        >>> import torch, zeromean
        >>> from zeromean.reparam import old_names
        >>> model = torch.nn.Linear(4, 2)
        >>> report = zeromean.reparametrize(model, "wn")
        >>> sorted(old_names(model.state_dict()))
        ['bias', 'weight_g', 'weight_v']
    """
    renamed = {}
    for key, value in state_dict.items():
        head, _, last = key.rpartition(".")
        owner, found, name = head.rpartition("parametrizations.")
        if found and last in ("original0", "original1"):
            key = f"{owner}{name}_{'g' if last == 'original0' else 'v'}"  # noqa: PLW2901
        renamed[key] = value
    return renamed


def _normed(model: nn.Module) -> Iterator[_Normed]:
    for module_name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            lists: Any = module.parametrizations
            for name, found in lists.items():
                if isinstance(found[0], parametrizations._WeightNorm):
                    dim = found[0].dim
                    g, v = found.original0, found.original1
                    yield _Normed(module_name, module, name, dim, g, v, hook=False)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, Hook):
                g, v = (getattr(module, f"{hook.name}_{letter}") for letter in "gv")
                yield _Normed(module_name, module, hook.name, hook.dim, g, v, hook=True)


def _plan(normed: _Normed) -> Row:
    """Return the plan's row for the weight as if it were plain."""
    kind: Any = parametrize.type_before_parametrizations(normed.module)
    alone: nn.Module = kind.__new__(kind)
    modules = normed.module._modules
    alone.__dict__.update(
        normed.module.__dict__,
        _parameters=dict(normed.module._parameters),
        _modules={name: module for name, module in modules.items() if name != "parametrizations"},
        # Only the names, so that the rule finds the weights that other parametrizations compute.
        parametrizations=list(getattr(normed.module, "parametrizations", ())),
    )
    alone.__dict__.pop(normed.name, None)  # a hook leaves the weight there
    weight = nn.Parameter(normed.v.detach(), requires_grad=False)
    alone.register_parameter(normed.name, weight)
    row = next(row for row in make_plan(owners(alone)) if row.parameter is weight)
    return replace(row, name=_full_name(normed.module_name, normed.name), parameter=normed.v)


def _full_name(module_name: str, name: str) -> str:
    return f"{module_name}.{name}" if module_name else name


def _dim(fan_in: FanIn, ndim: int) -> int | None:
    """Return torch's ``dim`` for these axes: the only other axis, or None if no dim fits."""
    left = [axis for axis in range(ndim) if axis not in fan_in.axes]
    return left[0] if len(left) == 1 and fan_in.groups == 1 else None


def _remove(normed: _Normed) -> None:
    """Replace torch's weight_norm by a plain weight."""
    trained = normed.v.requires_grad or normed.g.requires_grad
    if normed.hook:
        remove_weight_norm(normed.module, normed.name)
        getattr(normed.module, normed.name).requires_grad_(trained)
    else:
        remove_parametrizations(normed.module, normed.name, trained)


def _put(module: nn.Module, parameters: dict[str, Tensor]) -> None:
    """Make a module hold these same parameters, which an optimizer may hold too."""
    for name, parameter in parameters.items():
        assert isinstance(parameter, nn.Parameter)
        module._parameters[name] = parameter

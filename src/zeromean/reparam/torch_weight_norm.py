"""From torch's own weight_norm, in either of its forms, and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.weight_norm import WeightNorm as Hook

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.model import owners
from zeromean.plan import Row, make_plan
from zeromean.reparam.parametrization import (
    WeightNorm,
    parametrized_by,
    register,
    remove_parametrizations,
    unregister,
)
from zeromean.reparam.refusals import refuse_distributed, refuse_no_module, refuse_others_too
from zeromean.reparam.report import Change, Report


class _Normed(NamedTuple):
    """A weight that torch's weight_norm computes; dim -1 is one norm for the whole tensor."""

    module_name: str
    module: nn.Module
    name: str
    dim: int
    g: Tensor
    v: Tensor
    hook: Hook | None


def from_torch(model: nn.Module) -> Report:
    """Turn every weight that torch's weight_norm computes into zeromean's "wn", in place.

    Both ``torch.nn.utils.weight_norm`` (a hook) and ``torch.nn.utils.parametrizations.weight_norm``
    are known. Where torch's norm goes over the fan-in axes, g and v stay what they are and training
    goes on as it would have. Where it goes over others (``dim=0`` of a transposed convolution, or
    ``dim=None``), v becomes the weight and g the lengths of its vectors: the function is the same,
    training is not. Make the optimizer after this call.

    Args:
        model: The model.

    Returns:
        A report like that of :func:`zeromean.reparametrize`, of these weights alone.

    Raises:
        ZeromeanError: The model is wrapped or sharded.

    Example:
        >>> import torch
        >>> from zeromean.reparam import from_torch
        >>> model = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 2))
        >>> [change.done for change in from_torch(model)]
        [True]
    """
    refuse_no_module(model)
    refuse_distributed(model, "from_torch")
    changes = []
    for normed in list(_normed(model)):
        row = _plan(normed)
        lists: Any = getattr(normed.module, "parametrizations", {})
        if normed.name in lists and len(lists[normed.name]) > 1:
            row = row.left_alone("it has other parametrizations too: remove them first")
        if not row.centered or row.fan_in is None:
            changes.append(Change(row))
            continue
        weight = torch._weight_norm(normed.v, normed.g, normed.dim).detach()
        same = normed.dim >= 0 and normed.dim == _dim(row.fan_in, weight.ndim)
        _remove(normed)
        if same:
            _adopt(normed, row.fan_in)
        else:
            register(normed.module, normed.name, row.fan_in, WeightNorm, scale=None)
        after = getattr(normed.module, normed.name).detach()
        moved = float((after - weight).norm() / weight.norm()) if weight.any() else 0.0
        changes.append(Change(row, done=True, moved=moved))
    report = Report("wn", tuple(changes))
    if not report.done:
        warn("no weight is converted: the report tells why, where torch's weight_norm computes any")
    return report


def to_torch(model: nn.Module, *, hook: bool = False) -> nn.Module:
    """Turn every "wn" weight of :func:`zeromean.reparametrize` into torch's own, in place.

    g and v stay what they are. Parameters get torch's names.

    Args:
        model: The model.
        hook: False (default) for ``torch.nn.utils.parametrizations.weight_norm``; True for the
            deprecated ``torch.nn.utils.weight_norm``, with weight_g and weight_v.

    Returns:
        The model.

    Raises:
        ZeromeanError: A weight has gains that torch's cannot have: a fixed scale, or several groups
            of a transposed convolution; or it has other parametrizations besides.

    Example:
        >>> import torch, zeromean
        >>> from zeromean.reparam import to_torch
        >>> model = torch.nn.Linear(4, 2)
        >>> report = zeromean.reparametrize(model, "wn")
        >>> to_torch(model).parametrizations.weight[0]
        _WeightNorm()
    """
    refuse_no_module(model)
    refuse_distributed(model, "to_torch")
    found = [
        (f"{module_name}.{name}" if module_name else name, module, name, parametrization)
        for module_name, module in model.named_modules()
        for name, parametrization in parametrized_by(module).items()
        if isinstance(parametrization, WeightNorm)
    ]
    for full_name, module, _, parametrization in found:
        refuse_others_too(full_name.rpartition(".")[0], module)
        if parametrization.scale is not None or parametrization.fan_in.groups > 1:
            raise ZeromeanError(
                f"{full_name}, {parametrization.extra_repr()}",
                "one learned gain for each index of one axis, as torch's weight_norm has it",
                "fold it to a plain weight first: zeromean.fold(layer)",
            )
    for _, module, name, parametrization in found:
        lists: Any = module.parametrizations
        g, v = lists[name].original0, lists[name].original1
        dim = _dim(parametrization.fan_in, v.ndim)
        assert dim is not None
        unregister(module, name)
        if hook:
            with warnings.catch_warnings():  # torch's own advice against its older form
                warnings.simplefilter("ignore", FutureWarning)
                old_weight_norm(module, name, dim)
            _put(module, f"{name}_g", g)
            _put(module, f"{name}_v", v)
            with torch.no_grad():
                setattr(module, name, torch._weight_norm(v, g, dim))
        else:
            parametrizations.weight_norm(module, name, dim)
            lists = module.parametrizations
            _put(lists[name], "original0", g)
            _put(lists[name], "original1", v)
    return model


def old_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of weight_norm, torch's or zeromean's, under the names of the older form.

    ``x.parametrizations.weight.original0`` becomes ``x.weight_g``, ``original1`` ``x.weight_v``.
    The way back needs nothing: both torch's and zeromean's parametrizations load the older names.

    Args:
        state_dict: A model's ``state_dict()``.

    Returns:
        A new dict; the values are not copied.

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
                    yield _Normed(
                        module_name, module, name, dim, found.original0, found.original1, None
                    )
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, Hook):
                g, v = (getattr(module, f"{hook.name}_{letter}") for letter in "gv")
                yield _Normed(module_name, module, hook.name, hook.dim, g, v, hook)


def _plan(normed: _Normed) -> Row:
    """What is known of the weight, as if it were plain."""
    kind: Any = parametrize.type_before_parametrizations(normed.module)
    alone: nn.Module = kind.__new__(kind)
    alone.__dict__.update(normed.module.__dict__, _parameters={}, _modules={})
    alone.__dict__.pop(normed.name, None)  # a hook leaves its value there
    weight = nn.Parameter(normed.v.detach(), requires_grad=False)
    alone.register_parameter(normed.name, weight)
    (row,) = make_plan(owners(alone))
    name = f"{normed.module_name}.{normed.name}" if normed.module_name else normed.name
    return Row(name, row.shape, row.fan_in, row.centered, row.reason, normed.v)


def _dim(fan_in: FanIn, ndim: int) -> int | None:
    """Torch's ``dim`` for these axes: the one that is left, if there is one."""
    left = [axis for axis in range(ndim) if axis not in fan_in.axes]
    return left[0] if len(left) == 1 and fan_in.groups == 1 else None


def _remove(normed: _Normed) -> None:
    """Leave a plain weight."""
    if normed.hook is None:
        trained = normed.v.requires_grad or normed.g.requires_grad
        remove_parametrizations(normed.module, normed.name, trained)
    else:
        for key, hook in list(normed.module._forward_pre_hooks.items()):
            if hook is normed.hook:
                del normed.module._forward_pre_hooks[key]
        normed.hook.remove(normed.module)


def _adopt(normed: _Normed, fan_in: FanIn) -> None:
    """Register "wn" with torch's own g and v, the same parameters."""
    register(normed.module, normed.name, fan_in, WeightNorm, scale=None)
    lists: Any = normed.module.parametrizations
    _put(lists[normed.name], "original0", normed.g)
    _put(lists[normed.name], "original1", normed.v)


def _put(module: nn.Module, name: str, parameter: Tensor) -> None:
    """Let a module hold this very parameter, which an optimizer may know."""
    assert isinstance(parameter, nn.Parameter)
    module._parameters[name] = parameter

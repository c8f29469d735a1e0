"""A torch model's plan: who owns each parameter, and what the owner's rule says of it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from zeromean.centralization import fsdp1
from zeromean.errors import ZeromeanError
from zeromean.fan_in import Description, FanIn, describe, look_up, quantized
from zeromean.plan import Layers, Owner, Plan, Scope, make_plan


class HasPlan(Protocol):
    """What has been planned already, such as a :class:`zeromean.Handle`."""

    @property
    def plan(self) -> Plan:
        """The plan that is in force."""


def explain(
    subject: nn.Module | HasPlan,
    *,
    layers: Layers | None = None,
    embeddings: bool | None = None,
    scope: Scope | None = None,
) -> Plan:
    """Tell for every parameter whether it is centered, over which axes, and why.

    Args:
        subject: A model, to see what :func:`zeromean.centralize` would do with it; or a handle, to
            see what it does.
        layers, embeddings, scope: As in :func:`zeromean.centralize`, and with its defaults; a
            handle has its own.

    Returns:
        A :class:`zeromean.Plan`: a sequence of rows that prints as a table.

    Raises:
        ZeromeanError: ``subject`` is neither, or options were given with a handle.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Sequential(
        ...     torch.nn.ConvTranspose2d(8, 6, 3, groups=2), torch.nn.BatchNorm2d(6)
        ... )
        >>> print(zeromean.explain(model))
        parameter  shape    role  axes               centered  reason
        0.weight   8x3x3x3  conv  0,2,3 in 2 groups  yes       ConvTranspose2d, fan-in 36
        0.bias     6        -     -                  no        a bias has no fan-in
        1.weight   6        -     -                  no        a norm's gain multiplies one input
        1.bias     6        -     -                  no        a bias has no fan-in
        centered: 1 of 4 parameters, 216 of 234 entries
    """
    given = {"layers": layers, "embeddings": embeddings, "scope": scope}
    options: Any = {name: value for name, value in given.items() if value is not None}
    if isinstance(subject, nn.Module):
        return make_plan(owners(subject), **options)
    if not isinstance(getattr(subject, "plan", None), Plan):
        raise ZeromeanError(
            f"{type(subject).__name__} to explain",
            "a torch.nn.Module, or the handle that centralize returned",
            "call explain(model) or explain(handle)",
        )
    if options:
        raise ZeromeanError(
            f"{', '.join(options)} together with a handle",
            "a handle alone, which has its own options",
            "leave the options out, or pass the model",
        )
    return subject.plan


def owners(model: nn.Module) -> Iterator[Owner]:
    """Every parameter of the model under every module that holds it, in the model's own order.

    Raises:
        ZeromeanError: A parameter has no shape yet (a lazy module before its first forward), a
            rule names a parameter that its module does not have, or a module is TorchScript.
    """
    origins = fsdp1.origins(model)
    parametrizations: set[int] = set()
    for module_name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            if next(module.parameters(recurse=False), None) is None:
                continue
            raise ZeromeanError(
                f"{module_name or 'a model'} in TorchScript, where a layer's class is lost",
                "the torch.nn.Module that it was made of",
                "pass the model before torch.jit.script or torch.jit.trace",
            )
        if isinstance(module, parametrize.ParametrizationList):
            parametrizations.update(map(id, module))
            continue  # its originals belong to the module that they parametrize
        # What a parametrization's rule describes is not its own.
        description = None if id(module) in parametrizations else _describe(module)
        for name, original, full_name, parameter in _own_parameters(module, module_name):
            if is_lazy(parameter):
                raise ZeromeanError(
                    f"{full_name}, a lazy parameter that has no shape yet",
                    "a model whose parameters have their shapes",
                    "run one forward pass before centralizing",
                )
            fan_in, reason = _look_up(module, name, original, parameter, description)
            shape = origins[parameter].shape if parameter in origins else tuple(parameter.shape)
            yield Owner(full_name, parameter, shape, module_name, module, fan_in, reason)


def owners_by_shape(named: Iterable[tuple[str, Tensor]]) -> Iterator[Owner]:
    """The published rule, for parameters without a model: dimensions 1.. of two or more."""
    for name, parameter in named:
        fan_in, reason = None, "fewer than two dimensions"
        if parameter.ndim >= 2:
            axes = tuple(range(1, parameter.ndim))
            fan_in = FanIn(axes, role="conv" if parameter.ndim >= 4 else "linear")
            reason = "by its shape alone"
        yield Owner(name, parameter, tuple(parameter.shape), name, None, fan_in, reason)


def _describe(module: nn.Module) -> Description | None:
    # Looked up by hand: reading a parametrized attribute would evaluate its parametrization.
    return describe(
        module, {*module._parameters, *vars(module), *getattr(module, "parametrizations", ())}
    )


def _own_parameters(
    module: nn.Module, module_name: str
) -> Iterator[tuple[str, str | None, str, Tensor]]:
    """(name in the module, original's name, full name, parameter) of each.

    A parametrized one is there by its originals; others have no original's name.
    """
    prefix = f"{module_name}." if module_name else ""
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        yield name, None, prefix + name, parameter
    if parametrize.is_parametrized(module):
        parametrized: Any = module.parametrizations
        for name, parametrizations in parametrized.items():
            for original, parameter in parametrizations.named_parameters(recurse=False):
                yield name, original, f"{prefix}parametrizations.{name}.{original}", parameter


def _look_up(
    module: nn.Module,
    name: str,
    original: str | None,
    parameter: Tensor,
    description: Description | None,
) -> tuple[FanIn | None, str]:
    kind = type(module).__name__
    described = False
    if original is not None:
        # The first of the parametrizations computes with the originals, and may describe them.
        parametrizations: Any = module.parametrizations[name]  # type: ignore[index]
        first = parametrizations[0]
        its_own = describe(first, dict(parametrizations.named_parameters(recurse=False)))
        described = its_own is not None
        if described:
            owner = parametrize.type_before_parametrizations(module).__name__
            kind = f"{type(first).__name__} of {owner}"
            name, description = original, its_own
    told = look_up(kind, name, description)
    if not isinstance(told, FanIn):
        return None, told
    if reason := quantized(type(parameter)):
        return None, reason
    if not (parameter.is_floating_point() or parameter.is_complex()):
        return None, f"{parameter.dtype} entries have no mean"
    if original is not None and not described and not _keeps_shape(module, name):
        return None, f"the parametrization of {kind}'s {name} does not keep one tensor's shape"
    return told, kind


def _keeps_shape(module: nn.Module, name: str) -> bool:
    """Whether one original of the same shape stands behind a parametrized tensor."""
    parametrizations: Any = module.parametrizations[name]  # type: ignore[index]
    if not parametrizations.is_tensor:
        return False
    # A copy in eval mode: some parametrizations move their buffers whenever they are evaluated.
    try:
        with torch.no_grad():
            value = copy.deepcopy(parametrizations).eval()()
    except RuntimeError:  # it keeps tensors of a graph, which cannot be copied
        return False
    return bool(value.shape == parametrizations.original.shape)

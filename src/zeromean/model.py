"""The parameters of a torch model, the modules that own them, and the fan-in axes by rule."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

from zeromean import fsdp1
from zeromean.class_lookup import is_a
from zeromean.errors import ZeromeanError
from zeromean.fan_in import Description, FanIn, describe, look_up, quantized
from zeromean.plan import Owner

_TORCH_WEIGHT_NORM = "torch.nn.utils.parametrizations._WeightNorm"


def owners(model: nn.Module) -> Iterator[Owner]:
    """Yield every parameter under every module that holds it, in the model's own order.

    Raises:
        ZeromeanError: A parameter has no shape yet (a lazy module before its first forward pass), a
            rule names a parameter that does not exist, or a module is TorchScript.
    """
    origins = fsdp1.origins(model)
    modules = dict(model.named_modules())
    # The rule of a parametrization describes the originals, which the module below owns.
    parametrizations = {
        id(parametrization)
        for module in modules.values()
        if isinstance(module, parametrize.ParametrizationList)
        for parametrization in module
    }
    descriptions = _descriptions(
        module
        for module in modules.values()
        if id(module) not in parametrizations and not isinstance(module, torch.jit.ScriptModule)
    )
    for module_name, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            if next(module.parameters(recurse=False), None) is None:
                continue
            raise ZeromeanError(
                f"{module_name or 'the model'} is TorchScript, which does not keep a layer's class",
                "Pass the torch.nn.Module before torch.jit.script or torch.jit.trace",
            )
        if isinstance(module, parametrize.ParametrizationList):
            continue  # its originals belong to the module that they parametrize
        description = descriptions.get(id(module))
        for name, original, full_name, parameter in _own_parameters(module, module_name):
            refuse_lazy(full_name, parameter)
            fan_in, reason = _look_up(module, name, original, parameter, description)
            shape = origins[parameter].shape if parameter in origins else tuple(parameter.shape)
            undescribed = "" if description is not None else type(module).__name__
            yield Owner(
                full_name, parameter, shape, module_name, module, fan_in, reason, undescribed
            )


def owners_by_shape(named: Iterable[tuple[str, Tensor]]) -> Iterator[Owner]:
    """Yield parameters without a model, by the published rule: axes 1.. of two or more.

    Raises:
        ZeromeanError: A parameter has no shape yet.
    """
    for name, parameter in named:
        refuse_lazy(name, parameter)
        fan_in, reason = None, _without_mean(parameter)
        if reason is None and parameter.ndim < 2:
            reason = "fewer than two dimensions"
        if reason is None:
            axes = tuple(range(1, parameter.ndim))
            fan_in = FanIn(axes, role="conv" if parameter.ndim >= 4 else "linear")
            reason = "by its shape alone"
        yield Owner(name, parameter, tuple(parameter.shape), name, None, fan_in, reason)


def refuse_lazy(name: str, parameter: Tensor) -> None:
    """Raise if a parameter has no shape yet."""
    if is_lazy(parameter):
        raise ZeromeanError(
            f"{name} is a lazy parameter and has no shape yet", "Run one forward pass first"
        )


def _without_mean(parameter: Tensor) -> str | None:
    """Return why the entries of a parameter cannot be averaged, or None if they can."""
    if reason := quantized(type(parameter)):
        return reason
    if not (parameter.is_floating_point() or parameter.is_complex()):
        return f"{parameter.dtype} entries have no mean"
    if parameter.dtype.itemsize == 1:
        return f"weights of type {parameter.dtype} are not supported"
    return None


def _descriptions(modules: Iterable[nn.Module]) -> dict[int, Description]:
    """Return the description of each module that a rule describes, by the module's id."""
    found: dict[int, Description] = {}
    overrides: dict[int, dict[str, FanIn | str | None]] = {}
    for module in modules:
        if (description := _describe(module)) is None:
            continue
        found[id(module)] = description
        for full_name, entry in description.items():
            path, _, name = full_name.rpartition(".")
            if path:  # the module uses the weight of a submodule in its own way
                overrides.setdefault(id(module.get_submodule(path)), {})[name] = entry
    for key, entries in overrides.items():
        found[key] = {**found.get(key, {}), **entries}
    return found


def _describe(module: nn.Module) -> Description | None:
    # Reading a parametrized attribute would evaluate its parametrization, so names are compared.
    names = {*module._parameters, *vars(module), *getattr(module, "parametrizations", ())}
    return describe(module, names.union(name for name, _ in module.named_parameters()))


def _own_parameters(
    module: nn.Module, module_name: str
) -> Iterator[tuple[str, str | None, str, Tensor]]:
    """Yield (name in the module, name of the original, full name, parameter).

    A parametrized tensor appears as its originals. Other parameters have no original.
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
    if (normed := _weight_norm_of_torch(module, name, original)) is not None:
        return None, (
            f"torch's weight_norm computes {normed} from it;"
            " zeromean.reparam.from_torch(model) converts it"
        )
    if original is not None:
        # The first parametrization computes with the originals, and a rule may describe them.
        parametrizations: Any = module.parametrizations[name]  # type: ignore[index]
        first = parametrizations[0]
        originals = dict(parametrizations.named_parameters(recurse=False))
        own = describe(first, {key.removesuffix("_orig") for key in originals})  # if pruned
        described = own is not None
        if described:
            owner = parametrize.type_before_parametrizations(module).__name__
            kind = f"{type(first).__name__} of {owner}"
            name, description = original.removesuffix("_orig"), own
    entry = look_up(kind, name, description)
    if not isinstance(entry, FanIn):
        return None, entry
    if reason := _without_mean(parameter):
        return None, reason
    if original is not None and not described and not _keeps_shape(module, name):
        return (
            None,
            f"the parametrization of {name} in {kind} changes its shape or has several tensors",
        )
    return entry, kind


def _weight_norm_of_torch(module: nn.Module, name: str, original: str | None) -> str | None:
    """Return the weight that either form of torch's weight_norm computes from a parameter."""
    if original is not None:
        first = module.parametrizations[name][0]  # type: ignore[index]
        return name if is_a(type(first), _TORCH_WEIGHT_NORM) else None
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNormHook) and name in (f"{hook.name}_g", f"{hook.name}_v"):
            return hook.name
    return None


def _keeps_shape(module: nn.Module, name: str) -> bool:
    """Return whether a parametrized tensor is computed from one original of the same shape."""
    parametrizations: Any = module.parametrizations[name]  # type: ignore[index]
    if not parametrizations.is_tensor:
        return False
    # A copy in evaluation mode, because some parametrizations change their buffers in training.
    try:
        with torch.no_grad():
            value = copy.deepcopy(parametrizations).eval()()
    except RuntimeError:  # deepcopy refuses tensors of an autograd graph
        return False
    return bool(value.shape == parametrizations.original.shape)

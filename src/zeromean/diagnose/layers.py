"""The layers that a diagnostic looks at: those whose weight vectors centring would act on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.model import owners
from zeromean.plan import Layers, make_plan
from zeromean.sharded import is_sharded


@dataclass(frozen=True)
class Layer:
    """One weight tensor of a model, with the module that computes with it.

    Args:
        name: The tensor's full name in the model, such as ``0.weight``: a parametrized one under
            the name that it is used by.
        module: The module that holds it.
        tensor: Its name in that module.
        fan_in: Its fan-in axes.
    """

    name: str
    module: nn.Module
    tensor: str
    fan_in: FanIn

    @property
    def weight(self) -> Tensor:
        """The weights as the layer uses them, a parametrization applied, without a graph."""
        with torch.no_grad():
            value: Tensor = getattr(self.module, self.tensor)
        return value.detach()

    @property
    def transforms_input(self) -> bool:
        """Whether the module's output is the weights' own product with its input.

        Recurrent layers and attention do more with their weights than that.
        """
        return self.tensor == "weight" and self.fan_in.role in ("linear", "conv")

    def units_axis(self) -> int:
        """The axis of the module's output that counts units, from the end."""
        return -1 if self.fan_in.role == "linear" else 1 - self.weight.ndim


def layers_of(model: nn.Module, layers: Layers = "all", embeddings: bool = False) -> list[Layer]:
    """Every weight tensor that :func:`zeromean.centralize` would center, in the model's order.

    Raises:
        ZeromeanError: There is none, an option has an unknown value, or the model is no module or
            is sharded over processes.
    """
    refuse_model(model)
    held = list(owners(model))
    holders: dict[int, Any] = {}
    for owner in held:
        holders.setdefault(id(owner.parameter), owner)
    found: list[Layer] = []
    for row in make_plan(held, layers=layers, embeddings=embeddings).centered:
        owner = holders[id(row.parameter)]
        assert row.fan_in is not None
        inside = owner.name.removeprefix(f"{owner.module_name}.").split(".")
        tensor = inside[1] if inside[0] == "parametrizations" else inside[0]
        name = f"{owner.module_name}.{tensor}" if owner.module_name else tensor
        found.append(Layer(name, owner.module, tensor, row.fan_in))
    if not found:
        raise ZeromeanError(
            "a model in which nothing is centered",
            "at least one layer with fan-in axes",
            "print zeromean.explain(model), which tells why for each parameter",
        )
    return found


def refuse_model(model: object) -> None:
    """Raise unless this is a module that is whole in this process."""
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"{type(model).__name__} to diagnose", "a torch.nn.Module", "pass the model itself"
        )
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ZeromeanError(
            "a model that is sharded over processes",
            "a model that is whole in this process",
            "load its full state_dict into a plain copy of the model",
        )


def refuse_half_precision(model: nn.Module) -> None:
    """Raise where the parameters are too coarse for eigenvalues."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and torch.finfo(parameter.dtype).bits < 32:
            raise ZeromeanError(
                f"{name} in {str(parameter.dtype).removeprefix('torch.')}",
                "float32 or float64, since eigenvalues drown in the rounding of less",
                "pass copy.deepcopy(model).float()",
            )


@contextmanager
def listening(
    layers: list[Layer], heard: Callable[[Layer, Tensor, Tensor], None]
) -> Iterator[None]:
    """Tell of each call of the layers' modules: the layer, its input and its output."""
    with ExitStack() as stack:
        for layer in layers:

            def hook(
                module: nn.Module, args: tuple[Any, ...], output: Any, layer: Layer = layer
            ) -> None:
                if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                    heard(layer, args[0].detach(), output.detach())

            stack.callback(layer.module.register_forward_hook(hook).remove)
        yield


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Keep a forward pass from changing the running statistics and the random numbers' state.

    It works on copies of the buffers: a graph that outlives it may hold on to them.
    """
    held = [(part._buffers, dict(part._buffers)) for part in model.modules()]
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            for buffers, before in held:
                buffers.update({n: copies[id(b)] for n, b in before.items() if b is not None})
            yield
        finally:
            for buffers, before in held:
                buffers.update(before)


def plain_copy(module: nn.Module) -> nn.Module:
    """A copy without parametrizations, whose weights are the effective ones."""
    copied = copy.deepcopy(module)
    for part in list(copied.modules()):
        if parametrize.is_parametrized(part):
            parametrized: Any = part.parametrizations
            with torch.no_grad():
                values = {name: getattr(part, name).detach() for name in parametrized}
            # remove_parametrizations would break the original, whose class a copy shares.
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
    return copied

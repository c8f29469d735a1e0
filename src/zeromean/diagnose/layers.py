"""The layers that a diagnostic looks at: those whose weight vectors centering can act on."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.model import owners
from zeromean.plan import Layers, Owner, Row, make_plan
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
        alone: Whether the module has no other weight tensor.
    """

    name: str
    module: nn.Module
    tensor: str
    fan_in: FanIn
    alone: bool

    @property
    def weight(self) -> Tensor:
        """The weights as the layer uses them, a parametrization applied, without a graph."""
        with torch.no_grad():
            value: Tensor = getattr(self.module, self.tensor)
        return value.detach()

    def units(self, output: object) -> Tensor | None:
        """The module's output as one column a unit; None where it is no product with the weights.

        Recurrent layers and attention do more with their weights than that.
        """
        weight = self.weight
        axis = -1 if self.fan_in.role == "linear" else 1 - weight.ndim
        units = weight.numel() // self.fan_in.size(weight.shape)
        if not (self.alone and isinstance(output, Tensor) and output.ndim >= -axis):
            return None
        if self.fan_in.role == "embedding" or output.shape[axis] != units:
            return None
        return output.movedim(axis, -1).reshape(-1, units)


def layers_of(model: nn.Module, layers: Layers = "all", embeddings: bool = False) -> list[Layer]:
    """Every weight tensor that is, or could be, made of zero-mean vectors, in the model's order.

    Those that :func:`zeromean.centralize` would center, and those that a re-parametrization centers
    already.

    Raises:
        ZeromeanError: There is none, an option has an unknown value, or the model is no module, is
            complex, or is sharded over processes.
    """
    refuse_model(model)
    refuse_complex(model)
    held = _owners(model)
    holders: dict[int, Owner] = {}
    for owner in held:
        holders.setdefault(id(owner.parameter), owner)
    weights = {
        (owner.module_name, id(owner.parameter)) for owner in held if owner.fan_in is not None
    }
    many = Counter(module_name for module_name, _ in weights)
    found: list[Layer] = []
    for row in weights_of(model, layers, embeddings):
        owner = holders[id(row.parameter)]
        assert row.fan_in is not None
        inside = owner.name.removeprefix(f"{owner.module_name}.").split(".")
        tensor = inside[1] if inside[0] == "parametrizations" else inside[0]
        name = f"{owner.module_name}.{tensor}" if owner.module_name else tensor
        alone = many[owner.module_name] == 1
        found.append(Layer(name, owner.module, tensor, row.fan_in, alone))
    return found


def weights_of(
    model: nn.Module, layers: Layers = "all", embeddings: bool = False
) -> tuple[Row, ...]:
    """The trained parameters behind those layers' weights, as rows of a plan.

    Raises:
        ZeromeanError: As :func:`layers_of`.
    """
    rows = make_plan(_owners(model), layers=layers, embeddings=embeddings).centered
    if not rows:
        raise ZeromeanError(
            "a model in which nothing is centered",
            "at least one layer with fan-in axes",
            "print zeromean.explain(model), which tells why for each parameter",
        )
    return rows


def _owners(model: nn.Module) -> list[Owner]:
    """Every parameter, a proxy whose gradient is zero-mean already as one that is centered."""
    return [
        replace(owner, fan_in=replace(owner.fan_in, zero_mean=False)) if owner.fan_in else owner
        for owner in owners(model)
    ]


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


def refuse_complex(model: nn.Module) -> None:
    """Raise where parameters are complex: their imaginary parts would be dropped."""
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise ZeromeanError(
                f"{name} in {str(parameter.dtype).removeprefix('torch.')}",
                "real parameters",
                "use zeromean.monitor or gradient_norms, which measure complex ones too",
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
    layers: list[Layer], heard: Callable[[Layer, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Tell of each call of the layers' modules: the layer, its inputs and its output."""
    with ExitStack() as stack:
        for layer in layers:

            def hook(
                module: nn.Module, args: tuple[Any, ...], output: Any, layer: Layer = layer
            ) -> None:
                heard(layer, args, output)

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


@contextmanager
def differentiable() -> Iterator[None]:
    """Keep attention to the kernels that have the derivatives of each order."""
    mha = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)


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

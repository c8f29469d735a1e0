"""The layers that a diagnostic measures: those whose weight vectors can be centered."""

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
from zeromean.measurement.random_state import random_state_kept
from zeromean.model import owners
from zeromean.plan import Layers, Owner, Row, make_plan
from zeromean.sharded import is_sharded


@dataclass(frozen=True)
class Layer:
    """One weight tensor of a model with the module that computes with it.

    The name of a parametrized tensor is that of the module's attribute, such as "weight".
    """

    name: str  # full name in the model, such as "0.weight"
    module: nn.Module
    tensor: str  # name in the module
    fan_in: FanIn
    alone: bool  # whether the module has no other weight tensor

    @property
    def weight(self) -> Tensor:
        """The weights that the layer computes with, after parametrizations, without a graph."""
        # Spectral normalization updates its buffers in training mode at each access.
        with torch.no_grad(), unchanged(self.module):
            value: Tensor = getattr(self.module, self.tensor)
        return value.detach()

    def units(self, output: object) -> Tensor | None:
        """Return the module's output with one column per unit.

        The result is None if the output is not the product of the weights with one input, as in
        recurrent layers and attention.
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
    """Return every weight tensor whose vectors are or could be zero-mean, in the model's order.

    These are the tensors that :func:`zeromean.centralize` would center, and those that a
    re-parametrization centers already.

    Raises:
        ZeromeanError: There is none, an option has an unknown value, or the model is not a module,
            is sharded over processes, or has weights that are complex, not finite or on the meta
            device.
    """
    check_model(model)
    owned = _owners(model)
    first = {id(owner.parameter): owner for owner in reversed(owned)}
    weights = {(o.module_name, id(o.parameter)) for o in owned if o.fan_in is not None}
    count = Counter(module_name for module_name, _ in weights)
    found: list[Layer] = []
    for row in weights_of(model, layers, embeddings):
        owner = first[id(row.parameter)]
        assert row.fan_in is not None
        path = owner.name.removeprefix(f"{owner.module_name}.").split(".")
        tensor = path[1] if path[0] == "parametrizations" else path[0]
        name = f"{owner.module_name}.{tensor}" if owner.module_name else tensor
        layer = Layer(name, owner.module, tensor, row.fan_in, count[owner.module_name] == 1)
        if not layer.weight.isfinite().all():
            raise ZeromeanError(
                f"{name} has entries that are not finite",
                "Pass the model as it was before training diverged",
            )
        found.append(layer)
    return found


def weights_of(
    model: nn.Module, layers: Layers = "all", embeddings: bool = False
) -> tuple[Row, ...]:
    """Return the parameters that the weights of :func:`layers_of` depend on, as rows of a plan.

    Raises:
        ZeromeanError: There is none, or an option has an unknown value.
    """
    rows = make_plan(_owners(model), layers=layers, embeddings=embeddings).centered
    if not rows:
        raise ZeromeanError(
            "the model has no layer that can be centered",
            "Print zeromean.explain(model) to see why for each parameter",
        )
    return rows


def _owners(model: nn.Module) -> list[Owner]:
    """Return the owners; a proxy with a zero-mean gradient counts as one that can be centered."""
    return [
        replace(owner, fan_in=replace(owner.fan_in, zero_mean=False)) if owner.fan_in else owner
        for owner in owners(model)
    ]


def check_model(model: object, *, real: bool = True, precise: bool = False) -> None:
    """Raise unless a model is a module whose whole parameters are in this process.

    Args:
        model: Model to check.
        real: Whether complex parameters raise, because their imaginary part would be dropped.
        precise: Whether half precision raises, because its rounding hides eigenvalues.

    Raises:
        ZeromeanError: The model is not, or a parameter is on the meta device or has a type that
            ``real`` or ``precise`` excludes.
    """
    if not isinstance(model, nn.Module):
        raise ZeromeanError(f"{type(model).__name__} is not a torch.nn.Module", "Pass the model")
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ZeromeanError(
            "the model is sharded over processes",
            "Load its full state_dict into a plain copy of the model",
        )
    for name, parameter in model.named_parameters():
        dtype = str(parameter.dtype).removeprefix("torch.")
        if parameter.is_meta:
            raise ZeromeanError(
                f"{name} is on the meta device and has no values",
                "Move the model to a device with to_empty, and load its weights",
            )
        if real and parameter.is_complex():
            raise ZeromeanError(
                f"{name} is {dtype}, but this diagnostic needs real parameters",
                "Use zeromean.monitor or gradient_norms, which accept complex ones",
            )
        if precise and parameter.is_floating_point() and torch.finfo(parameter.dtype).bits < 32:
            raise ZeromeanError(
                f"{name} is {dtype}, whose rounding hides eigenvalues",
                "Pass copy.deepcopy(model).float()",
            )


@contextmanager
def forward_hooks(
    layers: list[Layer], on_call: Callable[[Layer, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Call a function with the layer, inputs and output at each call of a layer's module."""
    with ExitStack() as stack:
        for layer in layers:

            def hook(
                module: nn.Module, args: tuple[Any, ...], output: Any, layer: Layer = layer
            ) -> None:
                on_call(layer, args, output)

            stack.callback(layer.module.register_forward_hook(hook).remove)
        yield


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Keep a forward pass from changing the running statistics and the random number generators.

    The pass works on copies of the buffers, because a graph that outlives it may hold them.
    """
    held = [(part._buffers, dict(part._buffers)) for part in model.modules()]
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    with random_state_kept(model):
        try:
            for buffers, before in held:
                buffers.update({n: copies[id(b)] for n, b in before.items() if b is not None})
            yield
        finally:
            for buffers, before in held:
                buffers.update(before)


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Allow derivatives of any order of a forward pass that leaves the model unchanged."""
    mha = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with unchanged(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy without parametrizations whose weights are the effective ones."""
    copied = copy.deepcopy(module)
    for part in list(copied.modules()):
        if parametrize.is_parametrized(part):
            parametrized: Any = part.parametrizations
            with torch.no_grad():
                values = {name: getattr(part, name).detach() for name in parametrized}
            # remove_parametrizations would break the original, whose class the copy shares.
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
    return copied

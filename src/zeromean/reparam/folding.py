"""``fold``: turns computed weights back into plain parameters, for inference and export."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn
from torch.nn.utils import parametrize

from zeromean.errors import ZeromeanError
from zeromean.reparam.nnn import NaturalLinear, has_hooks, replace_module
from zeromean.reparam.parametrization import parametrized_by, unregister
from zeromean.reparam.preconditions import (
    check_module,
    check_only_parametrization,
    check_undistributed,
)

Model = TypeVar("Model", bound=nn.Module)


def fold(model: Model) -> Model:
    """Turn the weights computed by :func:`zeromean.reparametrize` into plain parameters, in place.

    Each weight is bit for bit the one that the layer last computed with, so outputs stay the same
    and the computation disappears. state_dict, pickling and export are those of the plain model. A
    ``zeromean.nn`` layer becomes the torch layer that it replaces; a user's subclass keeps its
    class. Create a new optimizer if training continues.

    Args:
        model: Model of which all, some or no weights are re-parametrized.

    Returns:
        The model itself, or the plain layer if the model is a single "nnn" layer.

    Raises:
        ZeromeanError: The model is wrapped or sharded; a weight has other parametrizations too; or
            an "nnn" layer has hooks, which its replacement would lose.

    Example:
        >>> import torch, zeromean
        >>> layer = zeromean.nn.CWNLinear(4, 2)
        >>> x = torch.randn(3, 4)
        >>> before = layer(x)
        >>> layer = zeromean.fold(layer)
        >>> type(layer).__name__, torch.equal(layer(x), before)
        ('Linear', True)
    """
    check_module(model)
    check_undistributed(model, "fold")
    parametrized = [(name, m) for name, m in model.named_modules() if parametrized_by(m)]
    for name, module in parametrized:
        check_only_parametrization(name, module)
    natural = {name: m for name, m in model.named_modules() if isinstance(m, NaturalLinear)}
    for name, module in natural.items():
        if has_hooks(module):
            raise ZeromeanError(
                f"{name or 'the NaturalLinear'} has hooks, which the plain layer that replaces it"
                " would lose",
                "Remove the hooks, fold, and register them on the plain layer",
            )
    for _, module in parametrized:
        for tensor in parametrized_by(module):
            unregister(module, tensor)
        # Only the classes of zeromean.nn themselves: a user's subclass keeps its class.
        plain = vars(type(module)).get("_folds_to")
        if plain is not None and not parametrize.is_parametrized(module):
            module.__class__ = plain
    if isinstance(model, NaturalLinear):
        return cast(Model, model.linear())
    for module in natural.values():
        replace_module(model, module, module.linear())
    return model

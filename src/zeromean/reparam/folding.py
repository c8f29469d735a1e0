"""Plain weights again, for inference and export."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn
from torch.nn.utils import parametrize

from zeromean.errors import ZeromeanError
from zeromean.reparam.nnn import NaturalLinear, has_hooks, replace_module
from zeromean.reparam.parametrization import parametrized_by, unregister
from zeromean.reparam.refusals import refuse_distributed, refuse_no_module, refuse_others_too

Model = TypeVar("Model", bound=nn.Module)


def fold(model: Model) -> Model:
    """Make the weights that :func:`zeromean.reparametrize` computes plain parameters, in place.

    Each weight is bit for bit what the layer last computed with, so outputs are the same and cost
    nothing more; state_dict, pickling and every export are those of the plain model. A
    ``zeromean.nn`` layer becomes the torch layer that it stands in for; a subclass of your own
    keeps its class. What was folded is trained as plain weights from then on: make the optimizer
    anew.

    Args:
        model: A model, re-parametrized in whole, in part or not at all.

    Returns:
        The model itself; or the plain layer, where the model is a single "nnn" layer.

    Raises:
        ZeromeanError: The model is wrapped or sharded; or a weight has other parametrizations
            besides; or an "nnn" layer has hooks, which the plain layer would lose.

    Example:
        >>> import torch, zeromean
        >>> layer = zeromean.nn.CWNLinear(4, 2)
        >>> x = torch.randn(3, 4)
        >>> before = layer(x)
        >>> layer = zeromean.fold(layer)
        >>> type(layer).__name__, torch.equal(layer(x), before)
        ('Linear', True)
    """
    refuse_no_module(model)
    refuse_distributed(model, "fold")
    found = [(name, module) for name, module in model.named_modules() if parametrized_by(module)]
    for name, module in found:
        refuse_others_too(name, module)
    natural = {name: m for name, m in model.named_modules() if isinstance(m, NaturalLinear)}
    for name, module in natural.items():
        if has_hooks(module):
            raise ZeromeanError(
                f"{name or 'a NaturalLinear'}, which has hooks",
                "a layer without hooks, because another takes its place",
                "remove them first, and register them again on the plain layer",
            )
    for _, module in found:
        for tensor in parametrized_by(module):
            unregister(module, tensor)
        # A layer of zeromean.nn itself: a user's subclass of one stays what it is.
        plain = vars(type(module)).get("_folds_to")
        if plain is not None and not parametrize.is_parametrized(module):
            module.__class__ = plain
    if isinstance(model, NaturalLinear):
        return cast(Model, model.linear())
    for module in natural.values():
        replace_module(model, module, module.linear())
    return model

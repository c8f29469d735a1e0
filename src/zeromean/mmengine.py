"""MMEngine: Gradient Centralization from a config, for MMDetection and its kin.

Importing this registers

- as optimizers, the published classes of :mod:`zeromean.compat` (``SGD_GC``, ``Adam_GCC2``, ...);
- ``Centralized``, an optimizer-wrapper constructor that centralizes whatever optimizer is
  configured, by the model's layers.

In a config::

    custom_imports = dict(imports=["zeromean.mmengine"])
    optim_wrapper = dict(
        constructor="Centralized",
        centralize=dict(at="update"),  # options of zeromean.centralize; may be left out
        optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    )
"""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from torch import nn

from zeromean import compat
from zeromean.centralization.centralize import centralize
from zeromean.errors import ZeromeanError

__all__ = ["Centralized"]

# SGD, Adam, ... of the published code have the names of torch's own and stay unregistered.
for _name, _class in vars(compat).items():
    if "_GC" in _name:
        OPTIMIZERS.register_module(name=_name, module=_class)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class Centralized:
    """Builds an optimizer wrapper as another constructor does, then centralizes its optimizer.

    Args:
        optim_wrapper_cfg: As for MMEngine's ``DefaultOptimWrapperConstructor``. Its ``centralize``,
            a dict, holds options of :func:`zeromean.centralize` and may name, as ``constructor``,
            the constructor that builds (default: MMEngine's own).
        paramwise_cfg: Handed to that constructor.

    Raises:
        ZeromeanError: ``centralize`` is no dict, or has an option that does not exist.

    Example:
        >>> import torch
        >>> import zeromean.mmengine
        >>> from mmengine.optim import build_optim_wrapper
        >>> config = dict(constructor="Centralized", optimizer=dict(type="SGD", lr=0.1))
        >>> wrapper = build_optim_wrapper(torch.nn.Linear(3, 2), config)
        >>> print(zeromean.status(wrapper.optimizer))  # doctest: +ELLIPSIS
        SGD is centralized ...
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        rest = dict(optim_wrapper_cfg)
        options = rest.pop("centralize", {})
        known = {"constructor", "at", "layers", "embeddings", "scope", "weight_decay"}
        known |= {"project_state"}
        if not isinstance(options, dict) or set(options) - known:
            raise ZeromeanError(
                f"centralize={options!r} in optim_wrapper",
                f"a dict of {', '.join(sorted(known))}",
                'write centralize=dict(at="update"), or leave it out',
            )
        self._options = dict(options)
        self._builds = OPTIM_WRAPPER_CONSTRUCTORS.build(
            {
                "type": self._options.pop("constructor", "DefaultOptimWrapperConstructor"),
                "optim_wrapper_cfg": rest,
                "paramwise_cfg": paramwise_cfg,
            }
        )

    def __call__(self, model: nn.Module) -> OptimWrapper | OptimWrapperDict:
        """The optimizer wrapper of this model."""
        wrapper = self._builds(model)
        for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,):
            centralize(one.optimizer, model, **self._options)
        return wrapper

"""MMEngine: Gradient Centralization from a config, for MMDetection and similar projects.

Importing this module registers

- the published classes of :mod:`zeromean.compat` (``SGD_GC``, ``Adam_GCC2``, ...) as optimizers;
- ``Centralized``, an optimizer-wrapper constructor that centralizes the configured optimizer by the
  model's layers.

In a config::

    custom_imports = dict(imports=["zeromean.mmengine"])
    optim_wrapper = dict(
        constructor="Centralized",
        centralize=dict(at="update"),  # options of zeromean.centralize; optional
        optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    )
"""

from __future__ import annotations

from typing import Any

from torch import nn

from zeromean import compat
from zeromean.centralization.centralize import attach
from zeromean.errors import needs_extra
from zeromean.gc_options import GCOptions

with needs_extra("mmengine", "zeromean.mmengine"):
    from mmengine.optim import OptimWrapper, OptimWrapperDict
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS

__all__ = ["Centralized"]

# SGD, Adam, ... of the published code have the names of torch's classes and are not registered.
for _name in compat.__all__:
    if "_GC" in _name:
        OPTIMIZERS.register_module(name=_name, module=getattr(compat, _name))


def __dir__() -> list[str]:
    return sorted(__all__)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class Centralized:
    """Build an optimizer wrapper by another constructor, then centralize its optimizer.

    Args:
        optim_wrapper_cfg: Config of MMEngine's ``DefaultOptimWrapperConstructor``. Its
            ``centralize``, a dict, holds options of :func:`zeromean.centralize`, and optionally
            ``constructor``, the name of the constructor to use (default: MMEngine's own).
        paramwise_cfg: Config that is passed to that constructor.

    Raises:
        ZeromeanError: ``centralize`` is not a dict, or has an unknown option.

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
        config = dict(optim_wrapper_cfg)
        options = config.pop("centralize", {})
        constructor = "DefaultOptimWrapperConstructor"
        if isinstance(options, dict):
            options = dict(options)
            constructor = options.pop("constructor", constructor)
        self._options = GCOptions.from_mapping(options, "centralize in optim_wrapper")
        self._constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
            {"type": constructor, "optim_wrapper_cfg": config, "paramwise_cfg": paramwise_cfg}
        )

    def __call__(self, model: nn.Module) -> OptimWrapper | OptimWrapperDict:
        """Return the optimizer wrapper of this model."""
        wrapper = self._constructor(model)
        for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,):
            attach(one.optimizer, model, self._options)
        return wrapper

"""Zero-mean gradients and weights, for every layer and every way of training.

>>> import torch, zeromean
>>> model = torch.nn.Linear(3, 2)
>>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
>>> handle = zeromean.centralize(optimizer, model)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeromean import compat as compat
    from zeromean import diagnose as diagnose
    from zeromean import fan_in as fan_in
    from zeromean import jax as jax
    from zeromean import keras as keras
    from zeromean import lightning as lightning
    from zeromean import mmengine as mmengine
    from zeromean import nn as nn
    from zeromean import optim as optim
    from zeromean import reparam as reparam
    from zeromean import study as study
    from zeromean import transformers as transformers
    from zeromean.centralization.centralize import Handle as Handle
    from zeromean.centralization.centralize import centralize as centralize
    from zeromean.centralization.explain import explain as explain
    from zeromean.centralization.status import Status as Status
    from zeromean.centralization.status import status as status
    from zeromean.checking import check as check
    from zeromean.errors import ZeromeanError as ZeromeanError
    from zeromean.errors import ZeromeanWarning as ZeromeanWarning
    from zeromean.fan_in import FanIn as FanIn
    from zeromean.monitoring import monitor as monitor
    from zeromean.plan import Plan as Plan
    from zeromean.projection import center as center
    from zeromean.reparam import fold as fold
    from zeromean.reparam import reparametrize as reparametrize

# Public name -> its module. Names and modules load at their first use, so that a framework is
# imported only if it is needed.
_HOMES = {
    "FanIn": "zeromean.fan_in",
    "Handle": "zeromean.centralization.centralize",
    "Plan": "zeromean.plan",
    "Status": "zeromean.centralization.status",
    "ZeromeanError": "zeromean.errors",
    "ZeromeanWarning": "zeromean.errors",
    "center": "zeromean.projection",
    "centralize": "zeromean.centralization.centralize",
    "check": "zeromean.checking",
    "explain": "zeromean.centralization.explain",
    "fold": "zeromean.reparam",
    "monitor": "zeromean.monitoring",
    "reparametrize": "zeromean.reparam",
    "status": "zeromean.centralization.status",
}

_MODULES = ("compat", "fan_in", "nn", "optim", "reparam")
# These need more than torch. They are attributes too, but not part of ``__all__``, so that
# ``from zeromean import *`` and ``help(zeromean)`` work without any extra.
_MODULES_OF_EXTRAS = ("diagnose", "jax", "keras", "lightning", "mmengine", "study", "transformers")

__all__ = [*_HOMES, *_MODULES]  # noqa: PLE0604
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in _MODULES_OF_EXTRAS:
        return importlib.import_module(f"zeromean.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'zeromean' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

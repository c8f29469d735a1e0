"""Drop-in classes for torch's optimizers, with the same names, that center inside their step.

Their signatures, defaults and checkpoints are torch's. The first argument may be the model itself;
``at``, ``layers`` and ``embeddings`` are those of :func:`zeromean.centralize`. A step never changes
``.grad``.

In SGD, SGDW, Adam and AdamW one kernel centers and makes the step. The others pass centered copies
of the gradients to torch's own functions.
"""

from __future__ import annotations

from typing import Any

import torch

from zeromean.optim.adagrad import Adagrad
from zeromean.optim.adam import Adam, AdamW
from zeromean.optim.lookahead import Lookahead, Ranger
from zeromean.optim.radam import RAdam
from zeromean.optim.rmsprop import RMSprop
from zeromean.optim.sgd import SGD, SGDW

__all__ = ["SGD", "SGDW", "Adagrad", "Adam", "AdamW", "Lookahead", "RAdam", "RMSprop", "Ranger"]


def __getattr__(name: str) -> Any:
    message = f"module {__name__!r} has no attribute {name!r}"
    if isinstance(getattr(torch.optim, name, None), type):
        message += (
            f"; centralize torch's {name} instead:"
            f" zeromean.centralize(torch.optim.{name}(model.parameters()), model)"
        )
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)

"""torch's optimizers with centering inside the step: drop-in classes of the same names.

Their signatures, defaults and checkpoints are torch's. The first argument may be the model itself;
``at``, ``layers`` and ``embeddings`` are those of :func:`zeromean.centralize`. A caller's ``.grad``
is never changed.

SGD, SGDW, Adam and AdamW step by a kernel that centers on the way. The others hand centered copies
of the gradients to torch's own functions.
"""

from __future__ import annotations

from typing import Any

import torch

from zeromean.optim.adagrad import Adagrad as Adagrad
from zeromean.optim.adam import Adam as Adam
from zeromean.optim.adam import AdamW as AdamW
from zeromean.optim.lookahead import Lookahead as Lookahead
from zeromean.optim.lookahead import Ranger as Ranger
from zeromean.optim.radam import RAdam as RAdam
from zeromean.optim.rmsprop import RMSprop as RMSprop
from zeromean.optim.sgd import SGD as SGD
from zeromean.optim.sgd import SGDW as SGDW

__all__ = ["SGD", "SGDW", "Adagrad", "Adam", "AdamW", "Lookahead", "RAdam", "RMSprop", "Ranger"]


def __getattr__(name: str) -> Any:
    message = f"module {__name__!r} has no attribute {name!r}"
    if isinstance(kind := getattr(torch.optim, name, None), type):
        message += (
            f"; centralize torch's {kind.__name__} instead:"
            f" zeromean.centralize(torch.optim.{name}(model.parameters()), model)"
        )
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)

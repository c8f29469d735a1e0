"""torch's optimizers with centering inside the step: drop-in classes of the same names.

Their signatures, defaults and checkpoints are torch's. The first argument may be the model itself;
``at``, ``layers`` and ``embeddings`` are those of :func:`zeromean.centralize`. A caller's ``.grad``
is never changed.

SGD, SGDW, Adam and AdamW step by a kernel that centers on the way. The others hand centered copies
of the gradients to torch's own functions.
"""

from __future__ import annotations

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

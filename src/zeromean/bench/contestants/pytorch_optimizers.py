"""pytorch_optimizer with its ``use_gc`` and without.

Of its optimizers only a few carry ``use_gc`` out, and neither SGD nor AdamW is among them. Its
AdamP is: with ``delta=0`` it never projects, and its weights are AdamW's.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.optim import Optimizer

from zeromean.bench.contestants.contestant import Absent, of_optimizer, optional
from zeromean.bench.work import Hyper


def _make(
    use_gc: bool, hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None
) -> Optimizer:
    package = optional("pytorch_optimizer")
    if hyper.name != "AdamW":
        raise Absent(f"its {hyper.name} has no GC")
    made: Optimizer = package.AdamP(parameters, **hyper.options, delta=0.0, use_gc=use_gc)
    return made


PYTORCH_OPTIMIZER = (
    of_optimizer("pytorch_optimizer", None, partial(_make, False)),
    of_optimizer("pytorch_optimizer, use_gc", "gradient", partial(_make, True)),
)

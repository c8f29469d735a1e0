"""The optimizers that the contracts run over, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import bitsandbytes.optim as bnb
import pytorch_optimizer as po
import schedulefree as sf
import torch
import torchao.optim as ao
from torch import optim


@dataclass(frozen=True)
class Case:
    """One optimizer.

    Args:
        make: Class of the optimizer.
        options: Constructor arguments other than parameters and weight decay.
        decay: Kind of weight decay, or None if there is none.
        update: Whether at="update" is supported.
        matrices: Whether it accepts two-dimensional parameters only.
        dtype: Type of the parameters.
    """

    make: Callable[..., optim.Optimizer]
    options: dict[str, Any] = field(default_factory=lambda: {"lr": 0.01})
    decay: Literal["coupled", "decoupled"] | None = "coupled"
    update: bool = True
    matrices: bool = False
    dtype: torch.dtype = torch.float64


LR: dict[str, Any] = {"lr": 0.01}

TORCH = {
    "SGD": Case(optim.SGD, LR | {"momentum": 0.9, "nesterov": True}),
    "Adam": Case(optim.Adam, LR | {"amsgrad": True}),
    "Adam, decoupled": Case(optim.Adam, LR | {"decoupled_weight_decay": True}, "decoupled"),
    "AdamW": Case(optim.AdamW, LR, "decoupled"),
    "Adamax": Case(optim.Adamax),
    "NAdam": Case(optim.NAdam),
    "NAdam, decoupled": Case(optim.NAdam, LR | {"decoupled_weight_decay": True}, "decoupled"),
    "RAdam": Case(optim.RAdam),
    "RAdam, decoupled": Case(optim.RAdam, LR | {"decoupled_weight_decay": True}, "decoupled"),
    "Adagrad": Case(optim.Adagrad),
    "Adadelta": Case(optim.Adadelta, {"lr": 1.0}),
    "RMSprop": Case(optim.RMSprop, LR | {"momentum": 0.9, "centered": True}),
    "ASGD": Case(optim.ASGD),
    "Rprop": Case(optim.Rprop, LR, None),
    "Adafactor": Case(optim.Adafactor, LR, "decoupled"),
    "Muon": Case(optim.Muon, LR, "decoupled", matrices=True, dtype=torch.float32),
}

SCHEDULE_FREE = {
    "SGDScheduleFree": Case(sf.SGDScheduleFree, LR, "coupled", update=False),
    "AdamWScheduleFree": Case(sf.AdamWScheduleFree, LR, "decoupled", update=False),
    "RAdamScheduleFree": Case(sf.RAdamScheduleFree, LR, "decoupled", update=False),
    "ScheduleFreeSGD": Case(po.ScheduleFreeSGD, LR, "coupled", update=False),
    "ScheduleFreeAdamW": Case(po.ScheduleFreeAdamW, LR, "decoupled", update=False),
    "ScheduleFreeRAdam": Case(po.ScheduleFreeRAdam, LR, "decoupled", update=False),
}

FLAGGED = {
    name: getattr(po, name)
    for name in ("AdaBelief", "Adai", "AdEMAMix", "StableAdamW", "ADOPT", "CAME", "Lion", "Tiger")
}
PYTORCH_OPTIMIZER = {
    f"{name}, weight_decouple={flag}": Case(
        make, LR | {"weight_decouple": flag}, "decoupled" if flag else "coupled"
    )
    for name, make in FLAGGED.items()
    for flag in (False, True)
} | {
    # Its flag chooses between two ways to shrink the weights.
    "Adan, weight_decouple=False": Case(po.Adan, LR | {"weight_decouple": False}, "decoupled"),
    "Adan, weight_decouple=True": Case(po.Adan, LR | {"weight_decouple": True}, "decoupled"),
    "AdamP, weight_decouple=False": Case(po.AdamP, LR | {"weight_decouple": False}, "decoupled"),
    "AdamP, weight_decouple=True": Case(po.AdamP, LR | {"weight_decouple": True}, "decoupled"),
    # It adds decay that is not decoupled after its preconditioner.
    "Lamb, weight_decouple=False": Case(po.Lamb, LR | {"weight_decouple": False}, "decoupled"),
    "Lamb, weight_decouple=True": Case(po.Lamb, LR | {"weight_decouple": True}, "decoupled"),
    "Ranger, weight_decouple=False": Case(
        po.Ranger, LR | {"weight_decouple": False, "use_gc": False}, "coupled"
    ),
    "Ranger, weight_decouple=True": Case(
        po.Ranger, LR | {"weight_decouple": True, "use_gc": False}, "decoupled"
    ),
    "SOAP": Case(po.SOAP, LR | {"precondition_frequency": 2}, "decoupled"),
}

EIGHT_BIT = {
    f"bitsandbytes {name}": Case(
        getattr(bnb, name),
        LR | options,
        decay,
        dtype=torch.float32,  # type: ignore[arg-type]
    )
    for name, options, decay in (
        ("SGD8bit", {"momentum": 0.9}, "coupled"),
        ("RMSprop8bit", {}, "coupled"),
        ("Adam8bit", {}, "decoupled"),
        ("AdamW8bit", {}, "decoupled"),
        ("Lion8bit", {}, "decoupled"),
    )
} | {
    "torchao Adam8bit": Case(ao.Adam8bit, LR, "coupled", dtype=torch.float32),
    "torchao AdamW8bit": Case(ao.AdamW8bit, LR, "decoupled", dtype=torch.float32),
}

CASES = (
    {f"torch {name}": case for name, case in TORCH.items()}
    | {
        f"{case.make.__module__.partition('.')[0]} {name}": case  # schedulefree, pytorch_optimizer
        for name, case in (SCHEDULE_FREE | PYTORCH_OPTIMIZER).items()
    }
    | EIGHT_BIT
)

# Tested separately: LBFGS needs closures, and SparseAdam accepts sparse gradients only.
APART = {"LBFGS", "SparseAdam"}

"""What has to be known of an optimizer that zeromean did not write, declared as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer

from zeromean.errors import ZeromeanError
from zeromean.mro import nearest

WeightDecay = Literal["coupled", "decoupled"]


@dataclass(frozen=True)
class Facts:
    """What one optimizer class does with gradients and weights.

    Args:
        decay: Where ``weight_decay`` acts: added to the gradient ("coupled", the L2 penalty) or
            applied to the weights beside it ("decoupled").
        momentum: State keys of running means of the gradient, which are linear in it.
        refuses_update: Why at="update" cannot be right, or "".
    """

    decay: WeightDecay = "decoupled"
    momentum: tuple[str, ...] = ()
    refuses_update: str = ""


_facts: dict[type | str, Facts] = {
    "torch.optim.sgd.SGD": Facts("coupled", ("momentum_buffer",)),
    "torch.optim.adam.Adam": Facts("coupled", ("exp_avg",)),
    "torch.optim.adamw.AdamW": Facts("decoupled", ("exp_avg",)),
    "torch.optim.adamax.Adamax": Facts("coupled", ("exp_avg",)),
    "torch.optim.nadam.NAdam": Facts("coupled", ("exp_avg",)),
    "torch.optim.radam.RAdam": Facts("coupled", ("exp_avg",)),
    "torch.optim.sparse_adam.SparseAdam": Facts(momentum=("exp_avg",)),
    "torch.optim.adagrad.Adagrad": Facts("coupled"),
    "torch.optim.adadelta.Adadelta": Facts("coupled"),
    "torch.optim.rmsprop.RMSprop": Facts("coupled", ("grad_avg",)),
    "torch.optim.asgd.ASGD": Facts("coupled"),
    "torch.optim.rprop.Rprop": Facts(),
    "torch.optim.Adafactor": Facts("decoupled"),
    "torch.optim.Muon": Facts("decoupled", ("momentum_buffer",)),
    "torch.optim.lbfgs.LBFGS": Facts(
        refuses_update="its curvature pairs hold differences of the weights it wrote itself"
    ),
}


def facts_of(optimizer: Optimizer) -> Facts | None:
    """The facts of the nearest known class in the optimizer's MRO, so a subclass of SGD is SGD."""
    return nearest(_facts, type(optimizer))


def decay_inside(
    optimizer: Optimizer, group: Mapping[str, Any], told: WeightDecay | Literal["auto"]
) -> float:
    """The signed lambda of one param group whose ``lambda * w`` belongs inside the projection.

    The optimizer steps along ``grad + lambda * w``, or, with ``maximize``, along
    ``-grad + lambda * w``, which turns the sign of lambda as seen from ``.grad``.

    Raises:
        ZeromeanError: The group decays and nobody said how.
    """
    weight_decay: float = group.get("weight_decay", 0)
    if not weight_decay:
        return 0.0
    if told == "auto":
        told = _decay_kind(optimizer, group)
    if told == "decoupled":
        return 0.0
    return -weight_decay if group.get("maximize", False) else weight_decay


def _decay_kind(optimizer: Optimizer, group: Mapping[str, Any]) -> WeightDecay:
    if "decoupled_weight_decay" in group:
        return "decoupled" if group["decoupled_weight_decay"] else "coupled"
    facts = facts_of(optimizer)
    if facts is None:
        raise ZeromeanError(
            f"{type(optimizer).__name__} with weight_decay={group['weight_decay']}, an optimizer"
            " that zeromean does not know",
            "to know whether its decay is added to the gradient or applied to the weights",
            'pass weight_decay="coupled" (added to the gradient) or weight_decay="decoupled"',
        )
    return facts.decay

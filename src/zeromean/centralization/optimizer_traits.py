"""What has to be known of an optimizer that zeromean did not write, declared as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch.optim import Optimizer

from zeromean.class_lookup import nearest
from zeromean.errors import ZeromeanError

WeightDecay = Literal["coupled", "decoupled"]


@dataclass(frozen=True)
class OptimizerTraits:
    """What one optimizer class does with gradients and weights.

    Args:
        decay: Where ``weight_decay`` acts: added to the gradient ("coupled", the L2 penalty) or
            applied to the weights beside it ("decoupled").
        momentum: State keys of running means of the gradient, which are linear in it.
        refuses_update: Why at="update" cannot be right, or "".
        decouples_by: Key of a flag in the param groups that decouples the decay, or "".
    """

    decay: WeightDecay = "decoupled"
    momentum: tuple[str, ...] = ()
    refuses_update: str = ""
    decouples_by: str = ""


_torch_adam = OptimizerTraits("coupled", ("exp_avg",), decouples_by="decoupled_weight_decay")
_traits: dict[type | str, OptimizerTraits] = {
    "torch.optim.sgd.SGD": OptimizerTraits("coupled", ("momentum_buffer",)),
    "torch.optim.adam.Adam": _torch_adam,
    "torch.optim.adamw.AdamW": replace(_torch_adam, decay="decoupled"),
    "torch.optim.adamax.Adamax": OptimizerTraits("coupled", ("exp_avg",)),
    "torch.optim.nadam.NAdam": _torch_adam,
    "torch.optim.radam.RAdam": _torch_adam,
    "torch.optim.sparse_adam.SparseAdam": OptimizerTraits(momentum=("exp_avg",)),
    "torch.optim.adagrad.Adagrad": OptimizerTraits("coupled"),
    "torch.optim.adadelta.Adadelta": OptimizerTraits("coupled"),
    "torch.optim.rmsprop.RMSprop": OptimizerTraits("coupled", ("grad_avg",)),
    "torch.optim.asgd.ASGD": OptimizerTraits("coupled"),
    "torch.optim.rprop.Rprop": OptimizerTraits(),
    "torch.optim.Adafactor": OptimizerTraits("decoupled"),
    "torch.optim.Muon": OptimizerTraits("decoupled", ("momentum_buffer",)),
    "torch.optim.lbfgs.LBFGS": OptimizerTraits(
        refuses_update="its curvature pairs hold differences of the weights it wrote itself"
    ),
}

# Schedule-free: decay acts at the point that the parameters hold, y.
_schedule_free = OptimizerTraits(
    refuses_update="it owns another iterate, z, whose mean moves all the same"
)
_schedule_free_l2 = replace(_schedule_free, decay="coupled")
_traits |= {
    "schedulefree.sgd_schedulefree.SGDScheduleFree": _schedule_free_l2,
    "schedulefree.sgd_schedulefree_closure.SGDScheduleFreeClosure": _schedule_free_l2,
    "schedulefree.adamw_schedulefree.AdamWScheduleFree": _schedule_free,
    "schedulefree.adamw_schedulefree_closure.AdamWScheduleFreeClosure": _schedule_free,
    "schedulefree.radam_schedulefree.RAdamScheduleFree": _schedule_free,
    "schedulefree.radam_schedulefree_closure.RAdamScheduleFreeClosure": _schedule_free,
    "pytorch_optimizer.optimizer.schedulefree.ScheduleFreeSGD": _schedule_free_l2,
    "pytorch_optimizer.optimizer.schedulefree.ScheduleFreeAdamW": _schedule_free,
    "pytorch_optimizer.optimizer.schedulefree.ScheduleFreeRAdam": _schedule_free,
}

# pytorch-optimizer: only those whose ``weight_decouple`` was seen to mean what it says. Adan's does
# not: without it the weights are divided, which is beside the gradient too.
_flagged = OptimizerTraits("coupled", ("exp_avg",), decouples_by="weight_decouple")
_traits |= {
    "pytorch_optimizer.optimizer.adabelief.AdaBelief": _flagged,
    "pytorch_optimizer.optimizer.ademamix.AdEMAMix": replace(
        _flagged, momentum=("exp_avg", "exp_avg_slow")
    ),
    "pytorch_optimizer.optimizer.adamw.StableAdamW": _flagged,
    "pytorch_optimizer.optimizer.adan.Adan": OptimizerTraits(
        momentum=("exp_avg", "exp_avg_diff", "previous_grad")
    ),
    "pytorch_optimizer.optimizer.adopt.ADOPT": replace(_flagged, momentum=()),
    "pytorch_optimizer.optimizer.came.CAME": replace(_flagged, momentum=()),
    "pytorch_optimizer.optimizer.lion.Lion": _flagged,
    "pytorch_optimizer.optimizer.soap.SOAP": OptimizerTraits(momentum=("exp_avg",)),
    "pytorch_optimizer.optimizer.tiger.Tiger": _flagged,
}

# bitsandbytes: its Adam decays as AdamW does. State may be 8-bit, so none is known as momentum.
_traits |= {
    "bitsandbytes.optim.optimizer.Optimizer1State": OptimizerTraits("coupled"),
    "bitsandbytes.optim.optimizer.Optimizer2State": OptimizerTraits("decoupled"),
}
_traits |= {
    f"bitsandbytes.optim.lion.{name}": OptimizerTraits("decoupled")
    for name in ("Lion", "Lion8bit", "Lion32bit", "PagedLion", "PagedLion8bit", "PagedLion32bit")
}

# torchao
_traits |= {
    f"torchao.optim.adam.Adam{bits}": OptimizerTraits("coupled") for bits in ("8bit", "4bit", "Fp8")
}
_traits |= {
    f"torchao.optim.adam.AdamW{bits}": OptimizerTraits("decoupled")
    for bits in ("8bit", "4bit", "Fp8")
}


# Optimizers whose step is that of another one that they own, on parameters and gradients as they
# are: hooks around the outer step are right, traits and state are the inner one's.
_steps_by: dict[type | str, str] = {
    "torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer": "optim",
}


def unwrap(optimizer: Optimizer) -> Optimizer:
    """The optimizer that makes the step: itself, but for those that are known to own it."""
    attribute = nearest(_steps_by, type(optimizer))
    return optimizer if attribute is None else getattr(optimizer, attribute)


def traits_of(optimizer: Optimizer) -> OptimizerTraits | None:
    """The traits of the nearest known class in the optimizer's MRO, so a subclass of SGD is SGD."""
    return nearest(_traits, type(unwrap(optimizer)))


def coupled_decay(
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
    # Some keep the choice on the optimizer instead of the param group.
    maximizes = group.get("maximize", getattr(optimizer, "maximize", False))
    return -weight_decay if maximizes else weight_decay


def _decay_kind(optimizer: Optimizer, group: Mapping[str, Any]) -> WeightDecay:
    traits = traits_of(optimizer)
    if traits is None:  # a flag of an unknown class may mean anything
        raise ZeromeanError(
            f"{type(optimizer).__name__} has weight_decay={group['weight_decay']}, and zeromean"
            " does not know whether this optimizer adds its decay to the gradient",
            'Pass weight_decay="coupled" if it is added to the gradient before anything else, or'
            ' weight_decay="decoupled" if it is applied to the weights or after preconditioning',
        )
    if traits.decouples_by and traits.decouples_by in group:
        return "decoupled" if group[traits.decouples_by] else "coupled"
    return traits.decay

"""The traits of optimizers of torch and other libraries, declared as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch.optim import Optimizer

from zeromean.class_lookup import is_a, nearest
from zeromean.errors import ZeromeanError
from zeromean.gc_options import WeightDecay


@dataclass(frozen=True)
class OptimizerTraits:
    """The traits of an optimizer class: its use of gradients and weights.

    Args:
        decay: "coupled" if ``weight_decay`` is added to the gradient before anything else (the L2
            penalty), "decoupled" if it is applied to the weights or added later, None if unknown.
        momentum: State keys of running means of the gradient, which are linear in it.
        refuses_update: Reason why at="update" cannot be correct, or "".
        decouples_by: Param-group key of a flag that decouples the decay, or "".
        centers_by: Name of the option by which the optimizer centers gradients itself, "always" if
            nothing turns that off, or "".
        known: Whether zeromean knows the class.
    """

    decay: WeightDecay | None = "decoupled"
    momentum: tuple[str, ...] = ()
    refuses_update: str = ""
    decouples_by: str = ""
    centers_by: str = ""
    known: bool = True

    def coupled_decay(self, optimizer: Optimizer, group: Mapping[str, Any]) -> float:
        """Return the signed lambda whose ``lambda * w`` belongs inside the projection.

        The optimizer steps along ``grad + lambda * w``. With ``maximize`` it steps along
        ``-grad + lambda * w``, which changes the sign of lambda relative to ``.grad``.

        Args:
            optimizer: The optimizer.
            group: One of its param groups.

        Raises:
            ZeromeanError: The group has weight decay, and its kind is unknown.
        """
        weight_decay: float = group.get("weight_decay", 0)
        if not weight_decay:
            return 0.0
        decay = self.decay
        if self.decouples_by and self.decouples_by in group:
            decay = "decoupled" if group[self.decouples_by] else "coupled"
        if decay is None:  # even a flag of an unknown class may mean anything
            raise ZeromeanError(
                f"{type(optimizer).__name__} has weight_decay={weight_decay}, and zeromean does not"
                " know whether this optimizer adds its decay to the gradient",
                'Pass weight_decay="coupled" if it is added to the gradient before anything else,'
                ' or weight_decay="decoupled" if it is applied to the weights or added later',
            )
        if decay == "decoupled":
            return 0.0
        # Some classes store the choice on the optimizer instead of the param group.
        maximizes = group.get("maximize", getattr(optimizer, "maximize", False))
        return -weight_decay if maximizes else weight_decay

    def centers_itself(self, optimizer: Optimizer) -> str:
        """Return how the optimizer centers gradients itself, such as "use_gc=True", or ""."""
        if self.centers_by in ("", "always"):
            return self.centers_by
        values = [getattr(optimizer, self.centers_by, False)]
        values += [group.get(self.centers_by, False) for group in optimizer.param_groups]
        return f"{self.centers_by}=True" if any(values) else ""


_UNKNOWN = OptimizerTraits(decay=None, known=False)

_torch_adam = OptimizerTraits("coupled", ("exp_avg",), decouples_by="decoupled_weight_decay")
_traits: dict[type | str, OptimizerTraits] = {
    "torch.optim.sgd.SGD": OptimizerTraits("coupled", ("momentum_buffer",)),
    "zeromean.study.tasks.sgdw.SGDW": OptimizerTraits("decoupled", ("momentum_buffer",)),
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

# Schedule-free: decay acts at the point y, which the parameters hold.
_schedule_free = OptimizerTraits(
    refuses_update="it stores another iterate, z, whose mean would still move"
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

# pytorch-optimizer: only classes in whose source ``weight_decouple=False`` adds the decay to the
# gradient. In Adan it divides the weights instead; in AdamP and Ranger21 it drops the decay.
_flagged = OptimizerTraits("coupled", ("exp_avg",), decouples_by="weight_decouple")
_flagged_gc = replace(_flagged, centers_by="use_gc")
_traits |= {
    "pytorch_optimizer.optimizer.adabelief.AdaBelief": _flagged,
    "pytorch_optimizer.optimizer.adai.Adai": replace(_flagged_gc, momentum=()),
    "pytorch_optimizer.optimizer.adamp.AdamP": OptimizerTraits(
        momentum=("exp_avg",), centers_by="use_gc"
    ),
    "pytorch_optimizer.optimizer.ademamix.AdEMAMix": replace(
        _flagged, momentum=("exp_avg", "exp_avg_slow")
    ),
    "pytorch_optimizer.optimizer.adamw.StableAdamW": _flagged,
    "pytorch_optimizer.optimizer.adan.Adan": OptimizerTraits(
        momentum=("exp_avg", "exp_avg_diff", "previous_grad"), centers_by="use_gc"
    ),
    "pytorch_optimizer.optimizer.adopt.ADOPT": replace(_flagged, momentum=()),
    "pytorch_optimizer.optimizer.came.CAME": replace(_flagged, momentum=()),
    "pytorch_optimizer.optimizer.lamb.Lamb": OptimizerTraits(momentum=("exp_avg",)),
    "pytorch_optimizer.optimizer.lars.LARS": OptimizerTraits("coupled", ("momentum_buffer",)),
    "pytorch_optimizer.optimizer.lion.Lion": _flagged_gc,
    "pytorch_optimizer.optimizer.ranger.Ranger": _flagged_gc,
    "pytorch_optimizer.optimizer.ranger21.Ranger21": OptimizerTraits(
        momentum=("grad_ma", "neg_grad_ma"), centers_by="centralize_gradients"
    ),
    "pytorch_optimizer.optimizer.soap.SOAP": OptimizerTraits(momentum=("exp_avg",)),
    "pytorch_optimizer.optimizer.tiger.Tiger": _flagged,
}

# The original Ranger and Ranger21. This Ranger centers even with use_gc=False.
_traits |= {
    "ranger.ranger.Ranger": OptimizerTraits(momentum=("exp_avg",), centers_by="always"),
    "ranger21.ranger21.Ranger21": OptimizerTraits(
        momentum=("grad_ma", "neg_grad_ma", "s"), centers_by="use_gc"
    ),
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

# timm. Without decoupled decay, Lamb (as above), Kron and NvNovoGrad add it after their
# preconditioner, which is outside the projection as well. LARS adds it to the gradient and then
# scales both by its trust ratio.
_decoupled = OptimizerTraits("decoupled", ("exp_avg",))
_timm_flagged = OptimizerTraits("coupled", ("exp_avg",), decouples_by="decoupled_decay")
_traits |= {
    f"timm.optim.{name}": traits
    for name, traits in {
        "adabelief.AdaBelief": _timm_flagged,
        "adafactor.Adafactor": replace(_decoupled, momentum=()),
        "adafactor_bv.AdafactorBigVision": replace(_decoupled, momentum=()),
        "adahessian.Adahessian": _decoupled,
        "adamp.AdamP": _decoupled,
        "adamw.AdamWLegacy": _decoupled,
        "adan.Adan": replace(_decoupled, momentum=("exp_avg", "exp_avg_diff", "neg_pre_grad")),
        "adopt.Adopt": OptimizerTraits("coupled", decouples_by="decoupled"),
        "kron.Kron": replace(_decoupled, momentum=("momentum_buffer",)),
        "lamb.Lamb": _decoupled,
        "laprop.LaProp": replace(_decoupled, momentum=()),
        "lars.Lars": OptimizerTraits("coupled", ("momentum_buffer",)),
        "lion.Lion": _decoupled,
        "madgrad.MADGRAD": replace(_timm_flagged, momentum=("s",)),
        "mars.Mars": replace(_decoupled, momentum=()),
        "muon.Muon": replace(_decoupled, momentum=("momentum_buffer", "exp_avg")),
        "nadam.NAdamLegacy": OptimizerTraits("coupled", ("exp_avg",)),
        "nadamw.NAdamW": _decoupled,
        "nvnovograd.NvNovoGrad": replace(_decoupled, momentum=()),
        "radam.RAdamLegacy": _decoupled,
        "rmsprop_tf.RMSpropTF": replace(_timm_flagged, momentum=("grad_avg",)),
        "sgdp.SGDP": replace(_decoupled, momentum=("momentum",)),
        "sgdw.SGDW": replace(_decoupled, momentum=("momentum_buffer",)),
    }.items()
}


# Optimizers whose step is that of another one that they own, on the same parameters and gradients:
# hooks around the outer step are correct, and traits and state are those of the inner one.
_STEPS_BY: dict[type | str, str] = {
    "torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer": "optim",
}

# Wrappers that call the step of the optimizer inside: hooks belong to that one.
_WRAPS: dict[type | str, str] = {
    "accelerate.optimizer.AcceleratedOptimizer": "optimizer",
    "lightning.pytorch.core.optimizer.LightningOptimizer": "optimizer",
    "pytorch_lightning.core.optimizer.LightningOptimizer": "optimizer",
    "zeromean.optim.lookahead.Lookahead": "optimizer",
}


def is_drop_in(optimizer: object) -> bool:
    """Return whether an optimizer is one of ``zeromean.optim``, which centers inside its step."""
    return is_a(type(optimizer), "zeromean.optim.centered.Centered")


def unwrap(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that makes the step: itself, or the one that it is known to step by."""
    attribute = nearest(_STEPS_BY, type(optimizer))
    return optimizer if attribute is None else getattr(optimizer, attribute)


def strip_wrapper(optimizer: Any) -> Any:
    """Return the optimizer inside known wrappers, whose own step is the one to hook."""
    while attribute := nearest(_WRAPS, type(optimizer)):
        optimizer = getattr(optimizer, attribute)
    return optimizer


def traits_of(
    optimizer: Optimizer, weight_decay: Literal["auto"] | WeightDecay = "auto"
) -> OptimizerTraits:
    """Return the traits of the nearest known class in the MRO, so that a subclass of SGD is SGD.

    Args:
        optimizer: The optimizer.
        weight_decay: "auto", or the kind of decay that replaces the declared one.
    """
    traits = nearest(_traits, type(unwrap(optimizer))) or _UNKNOWN
    if weight_decay == "auto":
        return traits
    return replace(traits, decay=weight_decay, decouples_by="")

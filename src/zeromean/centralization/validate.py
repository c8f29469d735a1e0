"""What cannot be right, refused with the reason and the way out."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.centralization import fsdp1
from zeromean.centralization.at_backward import refuse_decay_inside
from zeromean.centralization.optimizer_traits import WeightDecay, coupled_decay, traits_of, unwrap
from zeromean.class_lookup import is_a
from zeromean.errors import ZeromeanError
from zeromean.plan import Layers, check_without_model

_DDP = "torch.nn.parallel.distributed.DistributedDataParallel"
_DEEPSPEED = "deepspeed.runtime.base_optimizer.DeepSpeedOptimizer"
_DROP_IN = "zeromean.optim.centered.Centered"


def refuse_subjects(optimizer: object, model: object) -> None:
    """Raise unless these are an optimizer that acts, and a model or None."""
    refuse_wrapper(optimizer)
    if model is not None and not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"{type(model).__name__} as the model",
            "a torch.nn.Module, or None to go by shapes alone",
            "call centralize(optimizer, model)",
        )


def refuse_wrapper(optimizer: object) -> None:
    """Raise unless this is an optimizer, and one that applies the gradients itself."""
    kind = type(optimizer).__name__
    if is_a(type(optimizer), _DEEPSPEED):
        raise _partitions(f"DeepSpeed's {kind}")
    for name, inner in getattr(optimizer, "__dict__", {}).items():
        if not isinstance(inner, Optimizer) or not _share_parameters(optimizer, inner):
            continue
        if not isinstance(optimizer, Optimizer) or inner is not unwrap(optimizer):
            public = name.lstrip("_")
            raise ZeromeanError(
                f"{kind}, which steps through its .{name} ({type(inner).__name__})",
                "the optimizer that applies the gradients itself",
                f"pass optimizer.{public if getattr(optimizer, public, None) is inner else name}",
            )
    if not isinstance(optimizer, Optimizer):
        raise ZeromeanError(
            f"{kind} as the optimizer",
            "a torch.optim.Optimizer",
            "call centralize(optimizer, model), the optimizer first",
        )


def refuse_loss(value: object) -> None:
    """Raise unless a loss is one number that can be differentiated."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        return
    got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    without = isinstance(value, Tensor) and not value.requires_grad
    raise ZeromeanError(
        f"a loss of {got}{' without a graph' if without else ''}",
        "one number a batch, which depends on parameters that require a gradient",
        "reduce it by mean(), keep its graph, and call model.requires_grad_() if all is frozen",
    )


def refuse_without_effect(
    at: str,
    model: nn.Module | None,
    layers: Layers,
    embeddings: bool,
    weight_decay: str,
    project_state: bool,
) -> None:
    """Refuse options that would have no effect, rather than ignore them."""
    if at == "update" and weight_decay != "auto":
        raise ZeromeanError(
            f'weight_decay={weight_decay!r} with at="update"',
            "no word on decay, because the whole change of the weights is projected",
            "leave weight_decay out",
        )
    if at == "update" and project_state:
        raise ZeromeanError(
            'project_state=True with at="update"',
            "no word on momentum, because the whole change of the weights is projected",
            "leave project_state out",
        )
    if model is None:
        check_without_model(layers, embeddings)


def refuse_optimizer(
    optimizer: Optimizer, at: str, weight_decay: Literal["auto"] | WeightDecay
) -> None:
    """Raise where hooks around the step cannot be right, or its decay is of unknown kind."""
    kind = type(optimizer).__name__
    if is_a(type(optimizer), _DROP_IN):
        raise ZeromeanError(
            f"zeromean's {kind}, which centers inside its step",
            "an optimizer that does not",
            "leave centralize out, or make an optimizer of torch",
        )
    if getattr(optimizer, "_overlap_with_ddp", False):  # ZeroRedundancyOptimizer
        raise ZeromeanError(
            f"{kind} with overlap_with_ddp=True, which steps inside DDP's communication hook",
            "a step that fires the optimizer's hooks",
            "overlap_with_ddp=False",
        )
    traits = traits_of(optimizer)
    if at == "update" and traits is not None and traits.refuses_update:
        raise ZeromeanError(
            f'at="update" with {kind}', f"another place: {traits.refuses_update}", 'at="gradient"'
        )
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise ZeromeanError(
                f"{kind} with differentiable=True",
                "a step that autograd need not follow, because hooks act outside its graph",
                "differentiable=False, or zeromean.center on the gradients: autograd follows that",
            )
        if at == "gradient":
            coupled_decay(optimizer, group, weight_decay)
        elif at == "backward":
            refuse_decay_inside(optimizer, group, weight_decay)


def refuse_model(optimizer: Optimizer, model: nn.Module | None, at: str) -> None:
    """Raise where sharding or replication hides what has to be averaged."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    owned = held if model is None else [*held, *model.parameters()]
    if any(hasattr(parameter, "ds_id") for parameter in owned):  # stage 3 has taken them apart
        raise _partitions("parameters of DeepSpeed ZeRO")
    if any(map(fsdp1.is_flat, held)) and (
        at != "backward" or model is None or not fsdp1.origins(model)
    ):
        raise ZeromeanError(
            f'at="{at}" with FullyShardedDataParallel (FSDP1), whose flat shards have no rows',
            "whole rows: those of FSDP2, or of the gradients before FSDP1 cuts them",
            "shard with fully_shard (FSDP2), or wrap with use_orig_params=True, pass the wrapped"
            ' model and at="backward"',
        )
    if (
        at == "backward"
        and model is not None
        and is_a(type(model), _DDP)
        and not _holds_all(optimizer, model)
    ):
        raise ZeromeanError(
            'at="backward" under DistributedDataParallel, whose parameters it holds in part',
            "all of them on every rank, because each rank centers before gradients are averaged",
            'at="gradient", which centers the average',
        )


def _partitions(what: str) -> ZeromeanError:
    return ZeromeanError(
        f"{what}, whose flat partitions have no rows",
        "whole rows, or shards that tell which rows they hold",
        "shard with fully_shard (FSDP2) instead",
    )


def _share_parameters(outer: Any, inner: Optimizer) -> bool:
    held = {id(p) for group in getattr(outer, "param_groups", ()) for p in group["params"]}
    return any(id(p) in held for group in inner.param_groups for p in group["params"])


def _holds_all(optimizer: Optimizer, model: nn.Module) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return all(id(p) in held for p in model.parameters() if p.requires_grad)

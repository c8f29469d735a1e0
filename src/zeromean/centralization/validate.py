"""Validate optimizers and models: invalid combinations raise an error that names the fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean import fsdp1
from zeromean.centralization.at_backward import refuse_coupled_decay
from zeromean.centralization.optimizer_traits import is_drop_in, strip_wrapper, traits_of, unwrap
from zeromean.class_lookup import is_a, nearest
from zeromean.errors import ZeromeanError, warn
from zeromean.gc_options import GCOptions
from zeromean.plan import check_without_model

_DDP = "torch.nn.parallel.distributed.DistributedDataParallel"
_DEEPSPEED = "deepspeed.runtime.base_optimizer.DeepSpeedOptimizer"

# Wrappers that add an update to the step of the optimizer inside if this option is true.
_ADDS_UPDATE: dict[type | str, str] = {"pytorch_optimizer.optimizer.sam.WSAM": "decouple"}


def check_subjects(optimizer: object, model: object) -> Optimizer:
    """Return the optimizer to hook, and raise unless ``model`` is a model or None."""
    found = check_optimizer(optimizer)
    if model is not None and not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"model is of type {type(model).__name__}, not torch.nn.Module",
            "Pass the model after the optimizer, or None to use shapes alone",
        )
    return found


def check_optimizer(optimizer: object) -> Optimizer:
    """Return the optimizer inside known wrappers, and raise unless it applies gradients itself."""
    optimizer = strip_wrapper(optimizer)
    kind = type(optimizer).__name__
    if is_a(type(optimizer), _DEEPSPEED):
        raise _flat_partitions(f"DeepSpeed's {kind}")
    if isinstance(optimizer, nn.Module):
        raise ZeromeanError(
            f"the optimizer is a {kind}, which is a model", "Pass the optimizer first"
        )
    for name, inner in inner_optimizers(optimizer):
        if not isinstance(optimizer, Optimizer) or inner is not unwrap(optimizer):
            public = name.lstrip("_")
            held = getattr(optimizer, name)
            attribute = public if getattr(optimizer, public, None) is held else name
            option = nearest(_ADDS_UPDATE, type(optimizer))
            also = (
                f", and adds an update of its own because {option}=True"
                if option and getattr(optimizer, option)
                else ""
            )
            passing = "pass " if inner is held else "centralize each optimizer in "
            raise ZeromeanError(
                f"{kind} steps through its .{name} ({type(inner).__name__}){also}",
                f"Create it with {option}=False and {passing}optimizer.{attribute}"
                if also
                else f"{passing.capitalize()}optimizer.{attribute}",
            )
    if not isinstance(optimizer, Optimizer):
        raise ZeromeanError(
            f"the optimizer is of type {kind}, not torch.optim.Optimizer",
            "Pass the optimizer first",
        )
    return optimizer


def inner_optimizers(outer: Any) -> Iterator[tuple[str, Optimizer]]:
    """Yield the optimizers inside an object that hold some of its parameters.

    Args:
        outer: An object with ``param_groups``, such as an optimizer; else it holds none.

    Yields:
        The attribute and the optimizer. A list, tuple or dictionary may hold several.
    """
    ids = {id(p) for group in getattr(outer, "param_groups", ()) for p in group["params"]}
    for name, value in getattr(outer, "__dict__", {}).items():
        values = value.values() if isinstance(value, dict) else value
        for inner in values if isinstance(value, dict | list | tuple) else [value]:
            if isinstance(inner, Optimizer) and any(
                id(p) in ids for group in inner.param_groups for p in group["params"]
            ):
                yield name, inner


def refuse_loss(value: object) -> None:
    """Raise unless a loss is one number that can be differentiated."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        return
    got = f"is a {type(value).__name__}"
    if isinstance(value, Tensor):
        graph = "a" if value.requires_grad else "no"
        got = f"has shape {tuple(value.shape)} and {graph} graph"
    raise ZeromeanError(
        f"the loss {got}; it must be one number that depends on parameters that require a gradient",
        "Reduce it by mean(), keep its graph, and call model.requires_grad_() if all is frozen",
    )


def refuse_optimizer(optimizer: Optimizer, options: GCOptions) -> None:
    """Raise if hooks around the step cannot be correct, or if the kind of decay is unknown."""
    kind = type(optimizer).__name__
    if is_drop_in(optimizer):
        raise ZeromeanError(
            f"zeromean's {kind} centers inside its step already",
            "Leave centralize out, or use an optimizer of torch",
        )
    if getattr(optimizer, "_overlap_with_ddp", False):  # ZeroRedundancyOptimizer
        raise ZeromeanError(
            f"{kind} with overlap_with_ddp=True steps inside DDP's communication hook, which runs"
            " no step hooks",
            "Use overlap_with_ddp=False",
        )
    traits = traits_of(optimizer, options.weight_decay)
    if options.at == "update" and traits.refuses_update:
        raise ZeromeanError(
            f'at="update" is not correct for {kind}: {traits.refuses_update}', 'Use at="gradient"'
        )
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise ZeromeanError(
                f"{kind} has differentiable=True, but hooks act outside the graph of autograd",
                "Use differentiable=False, or apply zeromean.center to the gradients, which"
                " autograd follows",
            )
        if options.at == "gradient":
            traits.coupled_decay(optimizer, group)
        elif options.at == "backward":
            refuse_coupled_decay(traits, optimizer, group)
    if own := traits.centers_itself(optimizer):
        instead = "another optimizer" if own == "always" else own.replace("True", "False")
        warn(
            f"{kind} centers gradients itself ({own}), by shape alone. Use {instead} to leave"
            " centering to zeromean."
        )


def refuse_model(optimizer: Optimizer, model: nn.Module | None, options: GCOptions) -> None:
    """Raise if an option needs a model, or if sharding or replication hides weight vectors."""
    if model is None:
        check_without_model(options.layers, options.embeddings)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    owned = held if model is None else [*held, *model.parameters()]
    if any(hasattr(parameter, "ds_id") for parameter in owned):  # ZeRO stage 3 splits parameters
        raise _flat_partitions("DeepSpeed ZeRO")
    at = options.at
    if any(map(fsdp1.is_flat, held)) and (
        at != "backward" or model is None or not fsdp1.origins(model)
    ):
        raise ZeromeanError(
            f'at="{at}" needs whole rows, but FullyShardedDataParallel (FSDP1) gives the optimizer'
            " flat shards",
            "Shard with fully_shard (FSDP2), or wrap with use_orig_params=True, pass the wrapped"
            ' model and use at="backward"',
        )
    if (
        at == "backward"
        and model is not None
        and is_a(type(model), _DDP)
        and not _holds_all(optimizer, model)
    ):
        raise ZeromeanError(
            'at="backward" under DistributedDataParallel needs an optimizer that holds all'
            " parameters on every rank, because each rank centers before gradients are averaged",
            'Use at="gradient", which centers the averaged gradient',
        )


def _flat_partitions(what: str) -> ZeromeanError:
    return ZeromeanError(
        f"{what} gives the optimizer flat partitions, which have no rows",
        "Shard with fully_shard (FSDP2) instead",
    )


def _holds_all(optimizer: Optimizer, model: nn.Module) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return all(id(p) in held for p in model.parameters() if p.requires_grad)

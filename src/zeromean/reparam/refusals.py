"""What cannot be re-parametrized or folded, refused with the reason and the way out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.class_lookup import is_a
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.plan import check_option
from zeromean.reparam.formulas import Formula, take_apart
from zeromean.reparam.parametrization import parametrized_by
from zeromean.sharded import is_sharded

_WRAPPERS = (
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
)
_FSDP2 = "torch.distributed.fsdp.FSDPModule"


def refuse_options(
    model: object, method: str, scale: Any, init: str, mean: str, eps: Any, every: Any
) -> None:
    """Raise unless the options exist, and have an effect with this method."""
    refuse_no_module(model)
    check_option("method", method, ("wn", "cwn", "ws", "nnn"))
    check_option("init", init, ("preserve", "unit"))
    check_option("mean", mean, ("drop", "keep"))
    if scale is not None and scale != "learned" and not _is_number(scale, 0):
        raise ZeromeanError(
            f"scale={scale!r}", "'learned' or a positive number", "pass one of these as scale"
        )
    if eps is not None and not _is_number(eps, 0):
        raise ZeromeanError(f"eps={eps!r}", "a positive number", "pass one as eps, or leave it out")
    if every is not None and not (type(every) is int and every > 0):
        raise ZeromeanError(f"every={every!r}", "a positive whole number", "count updates with it")
    idle = {
        "every": every is not None and method != "nnn",
        "eps": eps is not None and method in ("wn", "cwn"),
        "mean": mean == "keep" and method in ("wn", "nnn"),
        "scale": scale is not None and method == "nnn",
        "init": init == "unit" and (method == "nnn" or scale not in (None, "learned")),
    }
    why = {
        "every": "nothing is estimated",
        "eps": "its formula has none",
        "mean": "it takes no mean away",
        "scale": "it has no gain",
        "init": "it has no learned gain",
    }
    for option, is_idle in idle.items():
        if is_idle:
            raise ZeromeanError(
                f"{option} together with {method!r}",
                f"no word on it, because {why[option]}",
                f"leave {option} out",
            )
    if init == "unit" and method == "ws" and scale is None:
        raise ZeromeanError(
            "init='unit' together with 'ws'",
            "a learned gain to start from 1",
            "pass scale='learned', or leave init out: without a gain it is 1",
        )


def refuse_no_module(model: object) -> None:
    """Raise unless this is a model."""
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"{type(model).__name__} as the model", "a torch.nn.Module", "pass the model itself"
        )


def refuse_distributed(model: nn.Module, verb: str = "reparametrize") -> None:
    """Raise where parameters have been taken over by a wrapper, which would miss new ones."""
    for module in model.modules():
        for wrapper in _WRAPPERS:
            if is_a(type(module), wrapper):
                kind = wrapper.rpartition(".")[2]
                raise ZeromeanError(
                    f"a model in {kind}, which has taken over its parameters",
                    "the model before it is wrapped",
                    f"call {verb} first, then wrap it",
                )
        if is_a(type(module), _FSDP2) or any(map(is_sharded, module.parameters(recurse=False))):
            raise ZeromeanError(
                "a model whose parameters are sharded already (fully_shard, DTensor)",
                "whole parameters: torch cannot put a parametrization over shards",
                f"call {verb} first, then fully_shard: each parametrized layer then gathers its"
                " originals",
            )


def refuse_gains_too_large(name: str, weight: Tensor, formula: Formula, fan_in: FanIn) -> None:
    """Raise where a gain that preserves the weight is more than the weight's type holds."""
    gains = take_apart(weight.detach(), formula, fan_in).norm
    if gains.device.type != "meta" and (gains.isfinite() & gains.to(weight.dtype).isinf()).any():
        raise ZeromeanError(
            f"{name}, whose weight vectors are up to {gains[gains.isfinite()].max():.3g} long",
            f"lengths that a gain of {weight.dtype} can be, which goes up to"
            f" {torch.finfo(weight.dtype).max:.3g}",
            "convert the model to bfloat16 or float32 first, or pass init='unit'",
        )


def refuse_others_too(name: str, module: nn.Module) -> None:
    """Raise where parametrizations besides zeromean's compute a weight, which would be lost."""
    lists: Any = module.parametrizations
    for tensor in parametrized_by(module):
        if len(lists[tensor]) > 1:
            raise ZeromeanError(
                f"{name + '.' if name else ''}{tensor}, which has other parametrizations too",
                "a weight that zeromean alone computes",
                "remove the others first, or call"
                " torch.nn.utils.parametrize.remove_parametrizations on it",
            )


def _is_number(value: Any, above: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > above
    )

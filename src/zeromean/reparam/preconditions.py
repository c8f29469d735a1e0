"""Checks of the options and the model before a re-parametrization or a fold."""

from __future__ import annotations

import sys
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


def check_options(
    model: object, method: str, scale: Any, init: str, mean: str, eps: Any, every: Any
) -> None:
    """Raise unless every option is known and has an effect with this method."""
    check_module(model)
    check_option("method", method, ("wn", "cwn", "ws", "nnn"))
    check_option("init", init, ("preserve", "unit"))
    check_option("mean", mean, ("drop", "keep"))
    check_scale(scale)
    if eps is not None:
        check_positive("eps", eps)
    if every is not None:
        check_positive("every", every, whole=True)
    without_effect = {
        "every": (every is not None and method != "nnn", "it estimates nothing"),
        "eps": (eps is not None and method in ("wn", "cwn"), "its formula has no eps"),
        "mean": (mean == "keep" and method in ("wn", "nnn"), "it does not subtract a mean"),
        "scale": (scale is not None and method == "nnn", "it has no gain"),
        "init": (
            init == "unit" and (method == "nnn" or scale not in (None, "learned")),
            "there is no learned gain",
        ),
    }
    for option, (is_given, reason) in without_effect.items():
        if is_given:
            raise ZeromeanError(
                f'{option} has no effect with method="{method}", because {reason}',
                f"Leave {option} out",
            )
    if init == "unit" and method == "ws" and scale is None:
        raise ZeromeanError(
            'init="unit" has no effect with method="ws", because it has no learned gain by default',
            'Pass scale="learned", or leave init out',
        )


def check_positive(name: str, value: object, *, whole: bool = False) -> None:
    """Raise unless an option is a positive number, or with ``whole`` a positive integer."""
    if not _is_positive(value) or (whole and not isinstance(value, int)):
        raise ZeromeanError(
            f"{name}={value!r} is not a positive {'whole ' if whole else ''}number",
            f"Pass a positive one, or leave {name} out",
        )


def check_scale(scale: object) -> None:
    """Raise unless this is "learned", a positive number or None."""
    learned = isinstance(scale, str) and scale == "learned"  # an array has no single truth value
    if scale is not None and not learned and not _is_positive(scale):
        raise ZeromeanError(
            f'scale={scale!r} is neither "learned" nor a positive number',
            'Pass scale="learned" or a number such as scale=1.0',
        )


def check_module(model: object) -> None:
    """Raise unless this is a model."""
    if not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"the model is {type(model).__name__}, not a torch.nn.Module", "Pass the model itself"
        )


def check_undistributed(model: nn.Module, verb: str) -> None:
    """Raise if a wrapper holds the parameters already, because it would miss new ones."""
    for module in model.modules():
        for wrapper in _WRAPPERS:
            if is_a(type(module), wrapper):
                kind = wrapper.rpartition(".")[2]
                raise ZeromeanError(
                    f"the model is wrapped in {kind}, which holds its parameters already",
                    f"Call {verb} first, then wrap it",
                )
        if is_a(type(module), _FSDP2) or any(map(is_sharded, module.parameters(recurse=False))):
            raise ZeromeanError(
                "the parameters of the model are already sharded (fully_shard, DTensor), and torch"
                " cannot parametrize shards",
                f"Call {verb} first, then fully_shard",
            )


def check_gains(name: str, weight: Tensor, formula: Formula, fan_in: FanIn) -> None:
    """Raise if the gain that preserves a weight overflows the weight's type."""
    gains = take_apart(weight.detach(), formula, fan_in).norm
    if gains.device.type != "meta" and (gains.isfinite() & gains.to(weight.dtype).isinf()).any():
        raise ZeromeanError(
            f"{name} has weight vectors of length {gains[gains.isfinite()].max():.3g}, but a gain"
            f" of type {weight.dtype} is at most {torch.finfo(weight.dtype).max:.3g}",
            'Convert the model to bfloat16 or float32 first, or pass init="unit"',
        )


def check_only_parametrization(name: str, module: nn.Module) -> None:
    """Raise if a weight that zeromean computes has other parametrizations too."""
    lists: Any = module.parametrizations
    for tensor in parametrized_by(module):
        if len(lists[tensor]) > 1:
            raise ZeromeanError(
                f"{name + '.' if name else ''}{tensor} has other parametrizations too",
                "Remove the others first, or call"
                " torch.nn.utils.parametrize.remove_parametrizations on it",
            )


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= sys.float_info.max

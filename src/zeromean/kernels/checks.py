"""The checks that every step makes before it writes: shapes, fan-in axes and storage sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.kernels.step_spec import STATE, Entry, Kind


def check_step(kind: Kind, entry: Entry, gradient: Tensor) -> None:
    """Raise unless a gradient and the optimizer's state match their weight and own their memory.

    Raises:
        ZeromeanError: A shape differs from the weight's, or a storage is too small.
    """
    weight, step = entry.weight, entry.state.get("step")
    state = {key: x for key in STATE[kind] if (x := entry.state.get(key)) is not None}
    check_fan_in(entry.fan_in, weight)
    check_shape("a gradient", gradient, weight)
    for key, x in state.items():
        check_shape(f'the state "{key}"', x, weight)
    if step is not None and step.numel() != 1:
        raise ZeromeanError(
            f'the state "step" has the shape {tuple(step.shape)}; it must hold one number',
            "Load a state dict that this class of optimizer wrote",
        )
    check_storage(weight, gradient, *state.values(), *([] if step is None else [step]))


def check_shape(what: str, x: Tensor, weight: Tensor) -> None:
    """Raise unless two tensors have the same shape."""
    if x.shape != weight.shape:
        raise ZeromeanError(
            f"{what} has the shape {tuple(x.shape)}, but its weight has the shape"
            f" {tuple(weight.shape)}",
            "After replacing a parameter's data, clear its gradient and build a new optimizer; load"
            " only state dicts of the same model",
        )


def check_fan_in(fan_in: FanIn | None, x: Tensor) -> None:
    """Raise unless a tensor has the fan-in axes that were planned for it."""
    if fan_in is not None and not fan_in.fits(x.shape):
        raise ZeromeanError(
            f"the fan-in {fan_in.words()} do not fit the shape {tuple(x.shape)}",
            "Build the optimizer, or centralize it, after a parameter got its final shape",
        )


def check_storage(*tensors: Tensor) -> None:
    """Raise if the storage of a dense tensor is smaller than its shape and strides require."""
    for x in tensors:
        if not has_own_class(x) or x.numel() == 0:
            continue
        needed = (x.storage_offset() + reach(x)) * x.element_size()
        if needed > x.untyped_storage().nbytes():
            raise ZeromeanError(
                f"a tensor of shape {tuple(x.shape)} needs {needed} bytes, but its storage was"
                f" resized to {x.untyped_storage().nbytes()}",
                "Resize the storage back before the step",
            )


def reach(x: Tensor) -> int:
    """Return the number of entries from a tensor's first to its last, gaps included."""
    if x.numel() == 0:
        return 0
    return 1 + sum((size - 1) * by for size, by in zip(x.shape, x.stride(), strict=True))


def has_own_class(x: Tensor) -> bool:
    """Return whether ``x`` is a dense tensor of torch's own class."""
    return (type(x) is Tensor or type(x) is nn.Parameter) and x.layout is torch.strided

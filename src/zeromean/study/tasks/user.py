"""A task of the user's own: a function that returns model, data and loss."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from zeromean.errors import ZeromeanError
from zeromean.study.metric import ACCURACY, LOSS
from zeromean.study.problem import Examples, Problem, as_they_are
from zeromean.study.task import Task
from zeromean.study.tasks.parts import cut

CONTRACT = (
    "a function of no arguments that returns (model, data, loss): model() makes a fresh network,"
    " data is (train, test), each a torch Dataset or (inputs, targets), and loss(outputs, targets)"
    " is a batch's mean"
)


def user_problem(task: Task, device: torch.device) -> Problem:
    """The problem of the task's ``module:function``, importable or in the working directory.

    Targets that are class indices beside one output a class along axis 1 are scored by accuracy,
    all others by the loss.

    Raises:
        ZeromeanError: There is no such function, or it does not keep the contract.
    """
    function = task.function or ""
    returned = _call(function)
    if not (isinstance(returned, tuple) and len(returned) == 3):
        raise _broken(function, f"returned {type(returned).__name__}")
    make, data, loss = returned
    if isinstance(make, nn.Module) or not callable(make):
        raise _broken(function, f"returned the model {type(make).__name__}, not what makes one")
    if not callable(loss):
        raise _broken(function, f"returned the loss {type(loss).__name__}, which cannot be called")
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise _broken(function, f"returned the data {type(data).__name__}")
    train, test = (_examples(function, part).to(device) for part in data)
    outputs = _try_out(function, make, (test, train), loss)
    classes = isinstance(outputs, Tensor) and all(
        _are_classes(outputs, part.targets) for part in (train, test)
    )
    return Problem(
        device=device,
        train=cut(train, task),
        watched=test,
        test=test,
        fit=as_they_are,
        augment=None,
        loss=loss,
        metric=ACCURACY if classes else LOSS,
        make=make,
        description=f"{len(train.targets):,} train and {len(test.targets):,} test examples",
        split="the task's own test set",
        preparation="the task's own",
    )


def _call(function: str) -> Any:
    module, _, name = function.partition(":")
    if not (module and name):
        raise _broken(function, "is not of the form module:function")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as error:
        raise _broken(function, f"needs a module {error.name}, which is not there") from error
    # Whatever the user's code raises is told in one line, and kept as the cause.
    except Exception as error:
        raise _broken(function, f"raised {type(error).__name__}: {error}") from error


def _examples(function: str, part: Any) -> Examples:
    if isinstance(part, Dataset):
        try:
            part = default_collate([part[index] for index in range(len(part))])  # type: ignore[arg-type]
        except Exception as error:  # the user's code again
            raise _broken(
                function, f"has a Dataset that cannot be stacked ({type(error).__name__}: {error})"
            ) from error
    if not (
        isinstance(part, tuple | list)
        and len(part) == 2
        and all(isinstance(one, Tensor) and one.ndim > 0 for one in part)
    ):
        raise _broken(function, "has data that are no pair of tensors")
    inputs, targets = part
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise _broken(function, f"has {len(inputs)} inputs and {len(targets)} targets")
    return Examples(inputs, targets)


def _are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Whether each target is the index of one of the outputs along axis 1."""
    return (
        targets.dtype == torch.int64
        and outputs.ndim == targets.ndim + 1
        and outputs.shape[1] > max(1, int(targets.max()))
    )


def _try_out(
    function: str,
    make: Callable[[], nn.Module],
    parts: Sequence[Examples],
    loss: Callable[..., Tensor],
) -> Any:
    """Outputs of a fresh network on the first examples of the last part."""
    try:
        with torch.random.fork_rng(devices=[]):
            network = make().to(parts[0].inputs.device).eval()
            for part in parts:
                outputs = network(part.inputs[:2])
                value = loss(outputs, part.targets[:2])
    except Exception as error:
        raise _broken(
            function, f"failed on its own first examples ({type(error).__name__}: {error})"
        ) from error
    if not (isinstance(value, Tensor) and value.ndim == 0):
        raise _broken(function, "has a loss that is not a single number")
    if not value.requires_grad:
        raise _broken(function, "has a loss that no parameter of its model changes")
    return outputs


def _broken(function: str, what: str) -> ZeromeanError:
    return ZeromeanError(f"task {function}, which {what}", CONTRACT, "mend the function")

"""Tasks from a user's function, which returns model, data and loss."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset, default_collate

from zeromean.errors import ZeromeanError
from zeromean.study.spec.metric import ACCURACY, LOSS
from zeromean.study.spec.task import FunctionTask
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.subset import take_subset
from zeromean.user_function import load_function

# Lines of zeromean, of Python and of installed packages do not help a user to find the cause.
_FOLDERS = (Path(__file__).parents[2], *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
LIBRARIES = ("<frozen importlib", *(f"{folder}{os.sep}" for folder in _FOLDERS))
CONTRACT = (
    "Write a function without arguments that returns (model, data, loss): model() makes a fresh"
    " network, data is (train, test), each a torch Dataset or a pair (inputs, targets), and"
    " loss(outputs, targets) is the mean of a batch"
)


def function_problem(task: FunctionTask, device: torch.device) -> Problem:
    """Load the task of ``module:function`` or ``file.py:function``.

    Modules are also looked for in the current folder. If targets are class indices and the outputs
    have one number per class along axis 1, the score is the accuracy; otherwise it is the loss.

    Raises:
        ZeromeanError: There is no such function, or it does not keep the contract.
    """
    function = task.function
    with guard(function):
        returned = load_function(function)()
    if not (isinstance(returned, tuple) and len(returned) == 3):
        raise _broken(function, f"returned {type(returned).__name__}")
    make, data, loss = returned
    if isinstance(make, nn.Module) or not callable(make):
        raise _broken(
            function, f"returned {type(make).__name__} instead of a function that makes a model"
        )
    if not callable(loss):
        raise _broken(function, f"returned {type(loss).__name__} as its loss")
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise _broken(function, f"returned {type(data).__name__} as its data")
    train, test = (_examples(function, part).to(device) for part in data)
    outputs = _try_out(function, make, (test, train), loss)
    classes = isinstance(outputs, Tensor) and all(
        _are_classes(outputs, part.targets) for part in (train, test)
    )
    return Problem(
        device=device,
        train=take_subset(train, task),
        watched=test,
        test=test,
        loss=loss,
        metric=ACCURACY if classes else LOSS,
        make=make,
        description=f"{len(train.targets):,} train and {len(test.targets):,} test examples",
        split="the task's own test set",
        preprocessing="the task's own",
        function=function,
    )


@contextmanager
def guard(function: str, when: str = "") -> Iterator[None]:
    """Turn any exception of the user's code into an error of one line, and keep it as the cause."""
    try:
        yield
    except ZeromeanError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [one for one in frames if not one.filename.startswith(LIBRARIES)]
        text = " ".join(f"{type(error).__name__}: {error}".split())
        place = f" in {os.path.basename(own[-1].filename)}, line {own[-1].lineno}" if own else ""
        raise ZeromeanError(
            f"the task {function} raised {text[:500]}{place}{when}",
            "Correct it; the same command continues a study that has begun",
        ) from error


def _examples(function: str, part: Any) -> Examples:
    if isinstance(part, Dataset):
        with guard(function, " while its Dataset was read"):
            examples = [part[index] for index in range(len(part))]  # type: ignore[arg-type]
            if not examples:
                raise _broken(function, "returned an empty Dataset")
            part = default_collate(examples)
    if not (
        isinstance(part, tuple | list)
        and len(part) == 2
        and all(isinstance(one, Tensor) and one.ndim > 0 for one in part)
    ):
        raise _broken(function, "returned data that is not a pair of tensors")
    # Inputs that were computed may carry an autograd graph, which the first step would free.
    inputs, targets = (one.detach().resolve_conj().resolve_neg() for one in part)
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise _broken(function, f"returned {len(inputs)} inputs and {len(targets)} targets")
    return Examples(inputs, targets)


def _are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether each target is the index of one of the outputs along axis 1."""
    return (
        targets.dtype == torch.int64
        and not outputs.is_complex()
        and outputs.ndim == targets.ndim + 1
        and int(targets.min()) >= 0
        and outputs.shape[1] > max(1, int(targets.max()))
    )


def _try_out(
    function: str,
    make: Callable[[], nn.Module],
    parts: Sequence[Examples],
    loss: Callable[..., Tensor],
) -> Any:
    """Return the outputs of a fresh network on the first examples of the last part."""

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return make().to(parts[0].inputs.device).eval()

    with guard(function, " on its first examples"), torch.random.fork_rng(devices=[]):
        network, other = fresh(), fresh()
        for part in parts:
            outputs = network(part.inputs[:2])
            value = loss(outputs, part.targets[:2])
    if {*other.parameters()} & {one for one in network.parameters() if one.requires_grad}:
        raise _broken(function, "makes two models that share trained parameters")
    weights = zip(network.parameters(), other.parameters(), strict=False)
    if not all(is_lazy(two) or torch.equal(one, two) for one, two in weights):
        raise ZeromeanError(
            f"the task {function} makes models whose initial weights differ with the same seed",
            "Draw all of them by torch, as torch.nn.init does",
        )
    if not (isinstance(value, Tensor) and value.ndim == 0):
        raise _broken(function, "has a loss that is not a single number")
    if not value.requires_grad:
        raise _broken(function, "has a loss that does not depend on the parameters of its model")
    return outputs


def _broken(function: str, what: str) -> ZeromeanError:
    return ZeromeanError(f"the task {function} {what}", CONTRACT)

"""Which kind of task is meant, loaded and tried out."""

from __future__ import annotations

import torch
from torch import nn

import zeromean
from zeromean.errors import ZeromeanError
from zeromean.study.methods import Method
from zeromean.study.optimizers import OPTIMIZERS
from zeromean.study.problem import Problem
from zeromean.study.study import Study, Task
from zeromean.study.tasks.images import image_problem


def load(study: Study, task: Task) -> Problem:
    """The task on the study's device.

    Raises:
        ZeromeanError: Its data cannot be read, or do not fit the network or the settings.
    """
    return image_problem(task, torch.device(study.device))


def rehearse(study: Study, task: Task, problem: Problem) -> None:
    """Finds out before the first run whether data, network, batches and methods fit together.

    Raises:
        ZeromeanError: They do not.
    """
    count = len(problem.train.targets)
    if task.batch_size > count:
        raise ZeromeanError(
            f"batch_size = {task.batch_size} with {count} training examples",
            f"{count} or fewer",
            "lower it",
        )
    for name in study.methods:
        method = Method.parse(name)
        network = problem.network(method, seed=0)
        if "gc-conv" in name.split("+") and not any(
            row.role == "conv" for row in zeromean.explain(network)
        ):
            raise ZeromeanError(
                f"method {name} with model {task.model}, which has no convolution",
                "a model with convolutions for gc-conv",
                "use model cnn, or gc instead of gc-conv",
            )
        method.attach(OPTIMIZERS[study.optimizers[0]].build(network, 1.0), network)
        normalized = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        if normalized and task.batch_size == 1:
            raise ZeromeanError(
                f"batch_size = 1 with model {task.model} and method {name}, which normalize over"
                " the batch",
                "2 or more",
                "raise it, or use model cnn",
            )


def check_device(name: str) -> None:
    """Refuses a device that torch cannot use here.

    Raises:
        ZeromeanError: It cannot.
    """
    try:
        torch.zeros(1, device=torch.device(name)).item()
    # Torch raises AssertionError where a build lacks a backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ZeromeanError(
            f"device {name}, which torch cannot use here",
            "a device of this machine",
            "use the device cpu",
        ) from error

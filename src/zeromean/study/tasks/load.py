"""Which kind of task is meant, loaded, cut, split and tried out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from zeromean.errors import ZeromeanError, ZeromeanWarning
from zeromean.model import explain
from zeromean.study.data.text import is_text
from zeromean.study.methods import BASELINE, Method
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.problem import Problem
from zeromean.study.run import Candidate
from zeromean.study.schedules import Schedule
from zeromean.study.settings import SettingError
from zeromean.study.study import Study
from zeromean.study.task import Task
from zeromean.study.tasks.images import SPLITS, image_problem
from zeromean.study.tasks.parts import hold_out
from zeromean.study.tasks.text import text_problem
from zeromean.study.tasks.user import user_problem


def load(study: Study, task: Task) -> Problem:
    """The task on the study's device.

    Where something is tuned, part of the training examples is for validation: it is what is
    watched, and the test examples are for the end alone.

    Raises:
        ZeromeanError: Its data cannot be read, or do not fit the network or the settings.
    """
    device = torch.device(study.device)
    if task.function is not None:
        problem = user_problem(task, device)
    elif is_text(task.data):
        problem = text_problem(task, device)
    else:
        problem = image_problem(task, device)
    if study.tuning is not None:
        problem = _with_validation(problem, study.tuning.validation)
    return problem


def _with_validation(problem: Problem, fraction: float) -> Problem:
    train, validation = hold_out(problem, fraction)
    of_seed = problem.of_seed
    if of_seed is not None:
        of_seed = lru_cache(maxsize=SPLITS)(
            lambda seed: _with_validation(replace(problem.for_seed(seed), of_seed=None), fraction)
        )
    return replace(problem, train=train, watched=validation, of_seed=of_seed)


def rehearse(study: Study, task: Task, problem: Problem) -> None:
    """Finds out before the first run whether data, network, batches and methods fit together.

    Raises:
        ZeromeanError: They do not.
    """
    count = len(problem.train.targets)
    if task.batch_size > count:
        raise SettingError(
            "batch_size",
            f"batch_size = {task.batch_size} with {count} training examples",
            "no more than there are",
            "lower it",
            "pass data with as many",
        )
    steps, schedule = task.epochs * problem.steps(task.batch_size), Schedule.parse(task.schedule)
    if steps < schedule.least_steps:
        raise SettingError(
            "schedule",
            f"schedule {task.schedule} in a run of {steps} steps, which ends before it acts",
            f"{schedule.least_steps} steps or more for it",
            "raise epochs, or change the schedule",
            "pass more training examples",
        )
    baseline = problem.network(Method.parse(BASELINE), seed=0)
    for name in study.optimizers:
        OptimizerChoice.parse(name).build(baseline, Candidate(1.0))
    roles = {row.role for row in explain(baseline)}
    for name in study.methods:
        method = Method.parse(name)
        for part in method.parts:
            if part.needs is not None and part.needs not in roles:
                raise SettingError(
                    "methods",
                    f"method {name} with {task.label}, whose network has no {part.needs} layer",
                    f"a model with {part.needs} layers for {part.call}",
                    "use another model, or leave that method out",
                )
        network = _prepared(problem, method, study.optimizers[0], task)
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        if task.batch_size == 1 and any(isinstance(one, norms) for one in network.modules()):
            raise SettingError(
                "batch_size",
                f"batch_size = 1 with {task.label} and method {name}, which normalize over the"
                " batch",
                "2 or more",
                "raise it, or use a model without batch normalization",
            )


def _prepared(problem: Problem, method: Method, optimizer: str, task: Task) -> nn.Module:
    """A network with all that the method does; what it would do in vain is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZeromeanWarning)
        try:
            network = problem.network(method, seed=0)
            method.attach(OptimizerChoice.parse(optimizer).build(network, Candidate(1.0)), network)
        except ZeromeanWarning as warning:
            raise SettingError(
                "methods",
                f"method {method.name} with {task.label}, where a part of it changes nothing"
                f" ({warning})",
                "parts that do something",
                "leave that part out: with cwn, for one, gradients have no mean left to take away",
            ) from warning
    return network


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

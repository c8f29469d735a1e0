"""Load tasks from their settings."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch

from zeromean.errors import ZeromeanError
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import FunctionTask, TaskSpec, TextTask, TrainedTask
from zeromean.study.tasks.function import function_problem
from zeromean.study.tasks.images import image_problem
from zeromean.study.tasks.interface import Task
from zeromean.study.tasks.next_character import text_problem
from zeromean.study.tasks.problem import Problem
from zeromean.study.tasks.program import ProgramRunner
from zeromean.study.tasks.subset import hold_out
from zeromean.study.tasks.training import TrainingTask


def load(study: Study, spec: TaskSpec) -> Task:
    """Load a task in the process that trains it.

    Raises:
        ZeromeanError: Its data cannot be read, or does not fit the settings.
    """
    if isinstance(spec, ProgramTask):
        return ProgramRunner(study, spec)
    return TrainingTask(study, spec, load_problem(study, spec))


def load_problem(study: Study, spec: TrainedTask) -> Problem:
    """Load a task that zeromean trains itself on the study's device.

    If something is tuned, a share of the training examples is held out for validation. It is scored
    after each epoch, and the test examples are scored only at the end.

    Raises:
        ZeromeanError: Its data cannot be read, or does not fit the settings.
    """
    device = torch.device(study.device)
    if isinstance(spec, FunctionTask):
        problem = function_problem(spec, device)
    elif isinstance(spec, TextTask):
        problem = text_problem(spec, device)
    else:
        problem = image_problem(spec, device)  # type: ignore[arg-type]
    if study.tuning is not None:
        problem = _with_validation(problem, study.tuning.validation)
    if problem.of_seed is not None:
        # Each split is a copy of the images, and only the seeds of a trial are trained in turns.
        splits = 1 if study.tuning is None else study.tuning.seeds
        problem = replace(problem, of_seed=lru_cache(maxsize=splits)(problem.of_seed))
    return problem


def _with_validation(problem: Problem, fraction: float) -> Problem:
    train, validation = hold_out(problem, fraction)
    of_seed = problem.of_seed
    return replace(
        problem,
        train=train,
        watched=validation,
        of_seed=of_seed and (lambda seed: _with_validation(of_seed(seed), fraction)),
    )


def check_device(name: str) -> None:
    """Check that torch can use a device on this machine.

    Raises:
        ZeromeanError: It cannot.
    """
    try:
        torch.zeros(1, device=torch.device(name)).item()
    # Torch raises AssertionError or ImportError if it was built without the device.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ZeromeanError(
            f'torch cannot use the device "{name}" on this machine', "Use the device cpu"
        ) from error

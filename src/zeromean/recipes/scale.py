"""Shorten a study's training: epochs, schedule and tuning by the same factor."""

from __future__ import annotations

import msgspec

from zeromean.errors import ZeromeanError
from zeromean.study.spec.schedule import Schedule
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import TrainedTask
from zeromean.study.spec.validation import SettingError

replace = msgspec.structs.replace


def scaled(study: Study, scale: float) -> Study:
    """Return the study with a share of its epochs, rounded to at least one.

    Args:
        study: Study to shorten.
        scale: Share of the epochs, above 0 and at most 1.

    Raises:
        ZeromeanError: The scale is out of range, or too small for every fall of the learning rate
            to keep epochs of its own.
    """
    if not 0 < scale <= 1:
        raise ZeromeanError(
            f"scale is {scale:g}; it has to be above 0 and at most 1", "Change scale"
        )
    if scale == 1:
        return study
    tuning = study.tuning
    if tuning is not None and tuning.epochs is not None:
        tuning = replace(tuning, epochs=_count(tuning.epochs, scale))
    return replace(
        study, tasks=tuple(_task(task, scale) for task in study.trained_tasks), tuning=tuning
    )


def _task(task: TrainedTask, scale: float) -> TrainedTask:
    short = _with_all_falls(task, scale)
    if short is not None:
        return short
    shares = (float(f"{epochs / task.epochs:.3g}") for epochs in range(1, task.epochs + 1))
    enough = next(one for one in shares if one > scale and _with_all_falls(task, one) is not None)
    raise ZeromeanError(
        f"scale is {scale:g}, but the schedule {task.schedule.label} has no room in"
        f" {_count(task.epochs, scale)} of {task.epochs} epochs",
        f"Raise scale, such as to {enough:g}",
    )


def _with_all_falls(task: TrainedTask, scale: float) -> TrainedTask | None:
    """Return the shorter task, or None if two falls of the rate would come together."""
    epochs = _count(task.epochs, scale)
    try:
        short = replace(task, epochs=epochs, schedule=_schedule(task.schedule, scale))
    except SettingError:
        return None
    return short if len(_falls(short)) == len(_falls(task)) else None


def _falls(task: TrainedTask) -> list[int]:
    """Return the epochs after which the rate falls, for a schedule that counts epochs."""
    if task.schedule.every is not None:
        return [*range(task.schedule.every, task.epochs, task.schedule.every)]
    return [*task.schedule.milestones]


def _schedule(schedule: Schedule, scale: float) -> Schedule:
    """Scale what is counted in epochs or steps; shares of the training stay."""
    return replace(
        schedule,
        every=None if schedule.every is None else _count(schedule.every, scale),
        steps=None if schedule.steps is None else _count(schedule.steps, scale),
        milestones=tuple(_count(one, scale) for one in schedule.milestones),
    )


def _count(number: int, scale: float) -> int:
    return max(1, round(number * scale))

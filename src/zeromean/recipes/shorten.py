"""A study with shorter training: epochs, the schedule and tuning all by the same share."""

from __future__ import annotations

from msgspec.structs import replace

from zeromean.errors import ZeromeanError
from zeromean.study.spec.schedule import Schedule
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask
from zeromean.study.spec.validation import SettingError


def shortened(study: Study, scale: float) -> Study:
    """The study with that share of its epochs, rounded to one or more.

    Args:
        study: Any.
        scale: Above 0, at most 1.

    Raises:
        ZeromeanError: The scale is out of range, or the rate would not change as often as it does
            in the whole training.
    """
    if not 0 < scale <= 1:
        raise ZeromeanError(f"scale = {scale:g}", "above 0, at most 1", "mend it")
    if scale == 1:
        return study
    tuning = study.tuning
    if tuning is not None and tuning.epochs is not None:
        tuning = replace(tuning, epochs=_count(tuning.epochs, scale))
    tasks = tuple(_task(task, scale) for task in study.tasks)
    return replace(study, tasks=tasks, tuning=tuning)


def _task(task: ImageTask, scale: float) -> ImageTask:
    short = _with_all_falls(task, scale)
    if short is not None:
        return short
    shares = (float(f"{epochs / task.epochs:.3g}") for epochs in range(1, task.epochs + 1))
    enough = next(one for one in shares if one > scale and _with_all_falls(task, one) is not None)
    raise ZeromeanError(
        f"scale = {scale:g}, {_count(task.epochs, scale)} of {task.epochs} epochs, in which the"
        f" schedule {task.schedule.label} has no room",
        "an epoch before, between and after all that it does",
        f"raise it, such as to {enough:g}",
    )


def _with_all_falls(task: ImageTask, scale: float) -> ImageTask | None:
    """The shorter task; None where not every fall of the rate has an epoch of its own."""
    epochs, schedule = _count(task.epochs, scale), _schedule(task.schedule, scale)
    try:
        short = replace(task, epochs=epochs, schedule=schedule)
    except SettingError:
        return None
    return short if len(_falls(short)) == len(_falls(task)) else None


def _falls(task: ImageTask) -> list[int]:
    """The epochs after which the rate falls, of a schedule that counts them."""
    schedule = task.schedule
    if schedule.every is not None:
        return [*range(schedule.every, task.epochs, schedule.every)]
    return [*schedule.milestones]


def _schedule(schedule: Schedule, scale: float) -> Schedule:
    counts = {
        name: _count(number, scale)
        for name in ("every", "steps")
        if (number := getattr(schedule, name)) is not None
    }
    milestones = tuple(_count(one, scale) for one in schedule.milestones)
    return replace(schedule, milestones=milestones, **counts)


def _count(number: int, scale: float) -> int:
    return max(1, round(number * scale))

"""A study with shorter training: epochs, the schedule and tuning all by the same share."""

from __future__ import annotations

from dataclasses import replace

from zeromean.errors import ZeromeanError
from zeromean.study.settings import SettingError
from zeromean.study.study import Study
from zeromean.study.task import Task

# Schedules whose numbers are epochs or steps; the others go by the share of the way.
IN_TIME = ("every", "drops", "halve")


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


def _task(task: Task, scale: float) -> Task:
    short = _with_all_falls(task, scale)
    if short is not None:
        return short
    shares = (float(f"{epochs / task.epochs:.3g}") for epochs in range(1, task.epochs + 1))
    enough = next(one for one in shares if one > scale and _with_all_falls(task, one) is not None)
    raise ZeromeanError(
        f"scale = {scale:g}, {_count(task.epochs, scale)} of {task.epochs} epochs, in which the"
        f" schedule {task.schedule} has no room",
        "an epoch before, between and after all that it does",
        f"raise it, such as to {enough:g}",
    )


def _with_all_falls(task: Task, scale: float) -> Task | None:
    """The shorter task; None where not every fall of the rate has an epoch of its own."""
    epochs, schedule = _count(task.epochs, scale), _schedule(task.schedule, scale)
    try:
        short = replace(task, epochs=epochs, schedule=schedule)
    except SettingError:
        return None
    return short if len(_falls(short)) == len(_falls(task)) else None


def _falls(task: Task) -> list[int]:
    """The epochs after which the rate falls, of a schedule that counts them."""
    kind, _, numbers = task.schedule.partition("=")
    if kind == "every":
        return [*range(int(numbers), task.epochs, int(numbers))]
    return [*map(int, numbers.split(","))] if kind == "drops" else []


def _schedule(schedule: str, scale: float) -> str:
    kind, _, numbers = schedule.partition("=")
    if kind not in IN_TIME:
        return schedule
    return f"{kind}={','.join(str(_count(int(one), scale)) for one in numbers.split(','))}"


def _count(number: int, scale: float) -> int:
    return max(1, round(number * scale))

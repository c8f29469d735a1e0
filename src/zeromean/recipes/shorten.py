"""A study with shorter training: epochs, the schedule and tuning all by the same share."""

from __future__ import annotations

from dataclasses import replace

from zeromean.errors import ZeromeanError
from zeromean.study.study import Study

# Schedules whose numbers are epochs or steps; the others go by the share of the way.
IN_TIME = ("every", "drops", "halve")


def shortened(study: Study, scale: float) -> Study:
    """The study with that share of its epochs, rounded to one or more.

    Args:
        study: Any.
        scale: Above 0, at most 1.

    Raises:
        ZeromeanError: The scale is out of range, or leaves a schedule no room.
    """
    if not 0 < scale <= 1:
        raise ZeromeanError(f"scale = {scale:g}", "above 0, at most 1", "mend it")
    if scale == 1:
        return study
    tasks = tuple(
        replace(task, epochs=_count(task.epochs, scale), schedule=_schedule(task.schedule, scale))
        for task in study.tasks
    )
    tuning = study.tuning
    if tuning is not None and tuning.epochs is not None:
        tuning = replace(tuning, epochs=_count(tuning.epochs, scale))
    return replace(study, tasks=tasks, tuning=tuning)


def _count(number: int, scale: float) -> int:
    return max(1, round(number * scale))


def _schedule(schedule: str, scale: float) -> str:
    kind, _, numbers = schedule.partition("=")
    if kind not in IN_TIME:
        return schedule
    counts = [_count(int(number), scale) for number in numbers.split(",")]
    if len(set(counts)) < len(counts):
        raise ZeromeanError(
            f"scale = {scale:g}, at which the rate would fall twice at once ({schedule})",
            "a scale that leaves an epoch between",
            "raise it",
        )
    return f"{kind}={','.join(map(str, counts))}"

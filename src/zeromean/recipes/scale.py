"""Shorten the training of a study: its epochs, schedule and tuning, by the same factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from zeromean.errors import ZeromeanError
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.schedule import Schedule
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import TrainedTask
from zeromean.study.spec.validation import SettingError

replace = msgspec.structs.replace


def scaled(study: Study, scale: float, lengths: Sequence[str] = ()) -> Study:
    """Return the study with a share of its epochs, rounded to at least one.

    Args:
        study: Study to shorten.
        scale: Share of the epochs, above 0 and at most 1.
        lengths: Options of a program whose numbers are scaled; the first is the length of training.

    Raises:
        ZeromeanError: The scale is out of range, or so small that two falls of the learning rate
            would take place in the same epoch, or one after the last epoch.
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
    (task,) = study.tasks
    short = _program(task, scale, lengths) if isinstance(task, ProgramTask) else _task(task, scale)
    return replace(study, tasks=(short,), tuning=tuning)


def _task(task: TrainedTask, scale: float) -> TrainedTask:
    short = _with_all_falls(task, scale)
    if short is not None:
        return short
    raise _no_room(
        f"the schedule {task.schedule.label}",
        task.epochs,
        scale,
        lambda share: _with_all_falls(task, share) is not None,
    )


def _no_room(
    schedule: str, epochs: int, scale: float, fits: Callable[[float], bool]
) -> ZeromeanError:
    """Return the error for a scale that is too small; its fix names one that suffices."""
    shares = (float(f"{number / epochs:.3g}") for number in range(1, epochs + 1))
    enough = next(one for one in shares if one > scale and fits(one))
    return ZeromeanError(
        f"scale is {scale:g}, but {schedule} has no room in {_count(epochs, scale)} of {epochs}"
        " epochs",
        f"Raise scale, such as to {enough:g}",
    )


def _program(task: ProgramTask, scale: float, lengths: Sequence[str]) -> ProgramTask:
    """Shorten every number that follows one of the options in the command."""
    places, option = [], ""
    for place, word in enumerate(task.command):
        if word.startswith("-"):
            option = word
        elif option in lengths and word.isdecimal():
            places.append(place)
    numbers = [int(task.command[place]) for place in places]

    def fits(share: float) -> bool:
        # Different numbers, such as the milestones of a schedule, have to stay different.
        return len({_count(one, share) for one in numbers}) == len(set(numbers))

    if not fits(scale):
        words = [w for p, w in enumerate(task.command) if p in places or w in lengths]
        epochs = int(task.command[task.command.index(lengths[0]) + 1])
        raise _no_room(" ".join(words), epochs, scale, fits)
    command = [*task.command]
    for place, number in zip(places, numbers, strict=True):
        command[place] = str(_count(number, scale))
    return replace(task, command=tuple(command))


def _with_all_falls(task: TrainedTask, scale: float) -> TrainedTask | None:
    """Return the shorter task, or None if it would have fewer falls of the learning rate."""
    epochs = _count(task.epochs, scale)
    try:
        short = replace(task, epochs=epochs, schedule=_schedule(task.schedule, scale))
    except SettingError:
        return None
    return short if len(_falls(short)) == len(_falls(task)) else None


def _falls(task: TrainedTask) -> list[int]:
    """Return the epochs after which the learning rate falls, for a schedule that counts epochs."""
    if task.schedule.every is not None:
        return [*range(task.schedule.every, task.epochs, task.schedule.every)]
    return [*task.schedule.milestones]


def _schedule(schedule: Schedule, scale: float) -> Schedule:
    """Return the schedule with scaled numbers of epochs and steps; shares of the training stay."""
    return replace(
        schedule,
        every=None if schedule.every is None else _count(schedule.every, scale),
        steps=None if schedule.steps is None else _count(schedule.steps, scale),
        milestones=tuple(_count(one, scale) for one in schedule.milestones),
    )


def _count(number: int, scale: float) -> int:
    return max(1, round(number * scale))

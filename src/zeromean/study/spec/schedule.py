"""The learning-rate schedule of a task."""

from __future__ import annotations

from typing import Literal

from zeromean.study.spec.validation import SettingError, Spec, build, check_range

MAX_COUNT = 1_000_000_000
# The field that each kind needs; the others have none.
FIELDS = {
    "cosine": None, "constant": None, "step": "every", "multistep": "milestones",
    "halve": "steps", "exponential": "end",
}  # fmt: skip


class Schedule(Spec, frozen=True):
    """The learning rate during a run, relative to its peak.

    =========== ============== ==============================================================
    kind        its field      learning rate
    =========== ============== ==============================================================
    cosine                     cosine from the peak to 0, step by step
    constant                   the peak
    step        ``every``      times 0.1 after every so many epochs
    multistep   ``milestones`` times 0.1 after each of these epochs
    halve       ``steps``      times 0.5 after every so many optimizer steps
    exponential ``end``        lowered by the same factor every two epochs, to ``end`` of the peak
    =========== ============== ==============================================================

    Args:
        kind: One of the kinds above.
        every: Number of epochs.
        milestones: Numbers of epochs, in ascending order.
        steps: Number of optimizer steps.
        end: Share of the peak in the last epochs, between 0 and 1.

    Raises:
        ZeromeanError: A field is missing, out of range, or belongs to another kind.

    Example:
        >>> Schedule("multistep", milestones=(50, 80)).description
        'times 0.1 after epochs 50, 80'
    """

    kind: Literal["cosine", "constant", "step", "multistep", "halve", "exponential"] = "cosine"
    every: int | None = None
    milestones: tuple[int, ...] = ()
    steps: int | None = None
    end: float | None = None

    def _check(self) -> None:
        needed = FIELDS[self.kind]
        for name in ("every", "milestones", "steps", "end"):
            given = name in self.changed
            if given != (name == needed):
                raise SettingError(
                    "schedule",
                    f'the schedule "{self.kind}" '
                    + (f"has no {name}" if given else f"needs {name}"),
                    f"{'Remove' if given else 'Add'} {name}",
                )
        milestones = (("milestones", one) for one in self.milestones)
        for name, number in (("every", self.every), ("steps", self.steps), *milestones):
            if number is not None:
                check_range(name, number, 1, MAX_COUNT)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise SettingError(
                "schedule",
                f"milestones are {', '.join(map(str, self.milestones))}; they have to rise",
                "Sort them, and name each once",
            )
        if self.end is not None and not 0 < self.end < 1:
            raise SettingError(
                "schedule", f"end is {self.end:g}; it has to be between 0 and 1", "Change end"
            )

    @property
    def description(self) -> str:
        """One phrase for reports."""
        return {
            "cosine": "cosine to 0 by step",
            "constant": "constant",
            "step": f"times 0.1 after every {self.every} epochs",
            "multistep": f"times 0.1 after epochs {', '.join(map(str, self.milestones))}",
            "halve": f"times 0.5 after every {self.steps} steps",
            "exponential": f"exponential, one fall every two epochs, to {self.end or 0:g} of the"
            " peak in the last epochs",
        }[self.kind]

    @property
    def label(self) -> str:
        """A short form for labels, such as ``multistep:50,80``."""
        values = (self.every, self.steps, self.end, ",".join(map(str, self.milestones)))
        return ":".join([self.kind, *(f"{one}" for one in values if one)])

    @property
    def min_epochs(self) -> int:
        """The smallest number of epochs in which every change of the rate takes place."""
        last = max(self.milestones, default=0)
        needed = {"step": (self.every or 0) + 1, "multistep": last + 1, "exponential": 3}
        return needed.get(self.kind, 1)

    @property
    def min_steps(self) -> int:
        """The smallest number of optimizer steps in which the rate changes."""
        return (self.steps or 0) + 1

    def fits(self, epochs: int, steps_per_epoch: int) -> bool:
        """Return whether a run of this length includes every change of the rate."""
        return epochs >= self.min_epochs and epochs * steps_per_epoch >= self.min_steps


def resolve_schedule(value: object) -> object:
    """Return the schedule that a kind without fields, or a table, stands for."""
    if isinstance(value, str):
        return build(Schedule, {"kind": value}, "schedule")
    if isinstance(value, dict):
        return build(Schedule, value, "schedule")
    return value


DEFAULT_SCHEDULE = Schedule()

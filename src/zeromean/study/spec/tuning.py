"""The search for each method's own learning rate."""

from __future__ import annotations

from typing import Literal

from zeromean.study.spec.task import MAX_EPOCHS
from zeromean.study.spec.validation import (
    LARGEST_FLOAT32,
    SettingError,
    Spec,
    check_distinct,
    check_range,
)

MAX_TRIALS = 100_000


class Tuning(Spec, frozen=True):
    """The budget that every method gets to find its learning rate.

    Args:
        rates: Learning rates of a grid, or whose ends bound Optuna's search.
        weight_decays: The same for the weight decay; empty keeps the optimizer's.
        search: "grid" or "optuna".
        trials: Number of Optuna's trials per method; a grid has its own number.
        seeds: Number of runs per trial, with seeds that the comparison does not use.
        epochs: Number of epochs per trial; None for the task's.
        validation: Share of the training examples that the choice is based on, above 0 and at most
            a half; no run is trained on it.
        extensions: Number of times that a grid may grow on each side while its best rate is the
            lowest or the highest.

    Raises:
        ZeromeanError: A number is out of range, or an option has no effect.

    Example:
        >>> Tuning(rates=(0.01, 0.1)).trial_count
        2
    """

    rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = ()
    search: Literal["grid", "optuna"] = "grid"
    trials: int | None = None
    seeds: int = 2
    epochs: int | None = None
    validation: float = 0.2
    extensions: int = 2

    def _check(self) -> None:
        for name in ("rates", "weight_decays"):
            values = getattr(self, name)
            for value in values:
                check_range(name, value, 0, LARGEST_FLOAT32, exclusive=True)
            if values or name == "rates":
                check_distinct(name, values)
        if (self.search == "optuna") != (self.trials is not None):
            raise SettingError(
                "trials",
                "trials is given for a grid, which has its own number"
                if self.trials is not None
                else 'search = "optuna" needs trials',
                "Remove trials" if self.trials is not None else "Add trials",
            )
        for name, most in (("trials", MAX_TRIALS), ("seeds", MAX_TRIALS), ("epochs", MAX_EPOCHS)):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, most)
        check_range("extensions", self.extensions, 0, 2)
        if self.search == "optuna" and len(self.rates) < 2:
            raise SettingError(
                "rates", "search optuna has one rate; it needs the lowest and the highest",
                "Add the other",
            )  # fmt: skip
        check_range("validation", self.validation, 0, 0.5, exclusive=True)

    @property
    def trial_count(self) -> int:
        """Number of trials per method before a grid grows."""
        return self.trials or len(self.rates) * max(1, len(self.weight_decays))
